import json
import math

import numpy as np
import pytest
from PIL import Image

from simvtp.extras import new_figure
from simvtp.training import curves
from simvtp.training.curves import _collect, _smooth, plot_curves
from simvtp.training.logging import RunLog


def test_picture_of_a_logged_run(tmp_path):
    with RunLog(tmp_path, total_steps=30) as log:
        for step in range(1, 31):
            metrics = {"loss": 1 / step if step != 9 else math.nan, "pixel": 0.5, "lr": 1e-4}
            log.step(step, metrics, clips=1, data_seconds=0.1, step_seconds=0.1)
        log.event(30, "text_to_video", {"recall@1": 0.5, "chance_recall@1": 0.1, "mean_rank": 3.0})
        log.event(30, "validation", {"top-1": 0.5, "accuracy": 0.1, "unreadable": 2.0})
    picture = plot_curves(log.path, out_png=tmp_path / "pictures" / "curves.png")
    with Image.open(picture) as image:
        assert image.format == "PNG"
        assert image.width > 1000
        assert len(np.unique(np.asarray(image).reshape(-1, 4), axis=0)) > 10

    panels = _collect([json.loads(line) for line in log.path.read_text().splitlines()])
    assert list(panels) == ["loss", "pixel", "lr", "text_to_video", "validation"]
    assert list(panels["validation"]) == ["top-1", "accuracy"]
    assert list(panels["text_to_video"]) == ["recall@1", "chance_recall@1"]
    assert math.isnan(panels["loss"]["loss"][8][1])


def test_single_step_run(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "lr": 2.0}\n')
    drawn = plot_curves(path, out_png=tmp_path / "curves.png")
    picture = np.asarray(Image.open(drawn).convert("RGB")).astype(int)
    # A line through one point draws nothing.
    is_blue = picture[..., 2] - picture[..., 0] > 80
    assert is_blue.any()


def test_empty_log_is_refused(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("")
    with pytest.raises(ValueError, match="at least one logged step, got none"):
        plot_curves(path, out_png=tmp_path / "curves.png")


@pytest.mark.parametrize("count", [1, 2, 3, 50, 500])
def test_smoothing_keeps_length_and_constants(count):
    assert _smooth(np.full(count, 3.0)) == pytest.approx(np.full(count, 3.0))


def test_smoothing_steps_over_gaps():
    values = np.array([1.0, np.nan, 3.0, np.nan, np.nan, np.nan])
    assert _smooth(values)[:4] == pytest.approx([1.0, 2.0, 3.0, 3.0])
    assert np.isnan(_smooth(values)[-1])


def axes_of(monkeypatch, tmp_path, *records):
    """What is drawn, before it becomes a picture."""
    figures = []
    keep = lambda *size: figures.append(new_figure(*size)) or figures[0]  # noqa: E731
    monkeypatch.setattr(curves, "new_figure", keep)
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    plot_curves(path, out_png=tmp_path / "curves.png")
    return {axes.get_title(): axes for axes in figures[0].axes}


@pytest.mark.parametrize(("last", "scale"), [(9.9, "linear"), (10.0, "log"), (0.1, "log")])
def test_an_axis_is_logarithmic_where_a_decade_is_spanned(monkeypatch, tmp_path, last, scale):
    records = [
        {"step": 1, "pixels mine": 1.0, "pixels photos": 0.0},
        {"step": 2, "pixels mine": 2.0, "pixels photos": last},
    ]
    axes = axes_of(monkeypatch, tmp_path, *records)["pixels by source"]
    assert axes.get_yscale() == scale
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["mine", "photos"]


def test_steps_are_whole_numbers_and_shares_per_cent(monkeypatch, tmp_path):
    records = [{"step": step, "loss": 1.0} for step in (5, 6)]
    records += [{"step": n, "event": "held-out", "t2v recall@1": n / 24} for n in (3, 6)]
    axes = axes_of(monkeypatch, tmp_path, *records)
    ticks = axes["loss"].get_xticks()
    assert all(tick == round(tick) for tick in ticks), ticks
    (line,) = axes["held-out"].get_lines()
    assert line.get_ydata().tolist() == [12.5, 25.0]
    assert axes["held-out"].get_ylabel() == "per cent"


def test_what_was_measured_once_is_bars(monkeypatch, tmp_path):
    once = {"recall@1 by cosine": 0.25, "recall@1 by cosine: chance": 0.01, "pixel error": 0.63}
    records = [{"step": 6, "loss": 1.0}, {"step": 6, "event": "learned", **once}]
    axes = axes_of(monkeypatch, tmp_path, *records)
    shares, errors = axes["learned"], axes["learned: errors"]
    assert [bar.get_width() for bar in shares.patches] == [25.0, 1.0]
    said = [text.get_text().strip() for text in (*shares.texts, *errors.texts)]
    assert said == [
        "recall@1 by cosine 25.0",
        "recall@1 by cosine: chance 1.0",
        "pixel error 0.630",
    ]
    assert (shares.get_xlabel(), errors.get_xlabel()) == ("per cent", "mean squared error")
    assert shares.get_legend() is None
