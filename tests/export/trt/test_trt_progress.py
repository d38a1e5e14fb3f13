import importlib.util
import logging

import pytest
from rich.progress import Progress

from export.trt import command as trt

pytestmark = [
    pytest.mark.trt,
    pytest.mark.skipif(
        importlib.util.find_spec("tensorrt_rtx") is None, reason="needs tensorrt-rtx-cu13"
    ),
]


def build(folder, *more):
    options = ("--backend", "rtx", "--compute-capability", "8.9", "--graphs", "text", *more)
    return trt.main(["--onnx", str(folder), *options])


def test_a_build_is_reported_to_its_end(exported_copy, monkeypatch):
    told = []

    class Watched(Progress):
        def update(self, task, **values):
            told.append(values)
            super().update(task, **values)

    monkeypatch.setattr(trt, "Progress", Watched)
    assert build(exported_copy) == 0
    done = [values["completed"] for values in told if "completed" in values]
    assert done == list(range(1, len(done) + 1))
    assert len(done) > 2
    assert "text: optimizing graph" in [values.get("description") for values in told]


@pytest.mark.parametrize("method", ["add_task", "update"])
def test_a_build_can_be_stopped(exported_copy, monkeypatch, capsys, method):
    def pressed(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(Progress, method, pressed)
    before = sorted(exported_copy.iterdir())
    assert build(exported_copy) == 130
    assert capsys.readouterr().out == "error: stopped\n"
    assert sorted(exported_copy.iterdir()) == before


def test_a_build_can_be_stopped_while_tensorrt_tells_something(exported_copy, capsys):
    presses = iter([KeyboardInterrupt])

    class Keyboard(logging.Handler):
        def emit(self, record):
            for press in presses:
                raise press

    before = sorted(exported_copy.iterdir())
    handler = Keyboard()
    logger = logging.getLogger("export.trt")
    logger.addHandler(handler)
    try:
        assert build(exported_copy, "--verbose") == 130
    finally:
        logger.removeHandler(handler)
    assert capsys.readouterr().out.endswith("error: stopped\n")
    assert sorted(exported_copy.iterdir()) == before
