"""Refitting needs a GPU: here it is asked of a library that only notes what it is told."""

from types import SimpleNamespace

import pytest

from export.runtime.engine_file import read_engine_file
from export.trt.library import Gpu, Library
from export.trt.parse import BuildError
from export.trt.refit import refit_engine
from tests.export.host_tensorrt import PROFILES, VERSION, write_engine


class Config:
    def __init__(self):
        self.flags = {"EXCLUDE_WEIGHTS"}
        self.set_flag, self.clear_flag = self.flags.add, self.flags.discard


def noting_library(*flags, capability="8.9", fits=True):
    """A library whose engines are serialised as the names of the flags."""
    config = Config()
    loaded = SimpleNamespace(
        create_serialization_config=lambda: config,
        serialize_with_config=lambda config: " ".join(sorted(config.flags)).encode(),
    )
    severities = ("INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE")
    module = SimpleNamespace(
        ILogger=type("ILogger", (), {name: name for name in severities}),
        Runtime=lambda log: SimpleNamespace(deserialize_cuda_engine=lambda data: loaded),
        Refitter=lambda engine, log: SimpleNamespace(
            refit_cuda_engine=lambda: fits, get_missing_weights=lambda: ["bias"]
        ),
        OnnxParserRefitter=lambda refitter, log: SimpleNamespace(refit_from_file=lambda file: True),
        SerializationFlag=SimpleNamespace(**{flag: flag for flag in flags}),
    )
    return Library("tensorrt", module, VERSION, Gpu("Host GPU", capability))


@pytest.fixture
def engine(exported_copy):
    return read_engine_file(write_engine(exported_copy, "video", PROFILES, refittable=True))


@pytest.mark.parametrize(
    ("known", "wanted"),
    [(("EXCLUDE_WEIGHTS", "INCLUDE_REFIT"), b"INCLUDE_REFIT"), (("EXCLUDE_WEIGHTS",), b"")],
)
def test_a_refitted_engine_has_its_weights_and_can_be_refitted_again(engine, known, wanted):
    assert refit_engine(noting_library(*known), engine, engine.path) == wanted


def test_weights_that_do_not_fit(engine):
    with pytest.raises(BuildError, match=r"do not fit .*; missing: bias"):
        refit_engine(noting_library(fits=False), engine, engine.path)


def test_an_engine_for_another_gpu_is_not_loaded(engine):
    with pytest.raises(ValueError, match=r"built for compute capability 8\.9, .* has 9\.0"):
        refit_engine(noting_library(capability="9.0"), engine, engine.path)
