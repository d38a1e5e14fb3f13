"""The photographs that are trained on beside videos."""

import csv

import numpy as np
import pytest
from PIL import Image

from benchmarks.images import PHOTOGRAPHS, VIDEOS, parser, run_of, write_sources
from simvtp.data.corpus.drawing import draw_scene
from simvtp.data.corpus.rendering import render_corpus
from simvtp.data.corpus.scenes import MOTIONS
from simvtp.pipelines.arguments import parse_job
from simvtp.pipelines.pretrain import build_parser
from simvtp.training import peak_lr


def rows_of(file):
    with file.open(newline="") as table:
        return list(csv.DictReader(table))


def test_runs_differ_in_the_photographs_alone(tmp_path):
    corpus = render_corpus(
        tmp_path / "cache", num_train=1, num_validation=1, size=32, num_up_front=0, progress=False
    )
    options = parser().parse_args([f"--out={tmp_path}", "--steps=30"])
    videos, mixed = (
        parse_job(build_parser(), run_of(options, corpus, variant, 3).commands[0][1:])
        for variant in (VIDEOS, PHOTOGRAPHS)
    )
    rates, seen = [], []
    for settings in (videos, mixed):
        run, weights = settings.run, [source.weight for source in settings.data.sources]
        assert settings.data.epoch_clips == 30 * run.batch_size
        rates.append(peak_lr(settings.optim.lr_per_256, global_batch_size=run.batch_size))
        seen.append(run.batch_size * weights[0] / sum(weights))
        assert run.seed == 3
    assert rates[0] == pytest.approx(rates[1])
    assert seen[0] == seen[1] == 16
    assert [source.num_frames for source in mixed.data.sources] == [None, 2]
    assert mixed.data.tokenizer == videos.data.tokenizer


def test_stills_show_other_scenes_and_say_nothing_of_motion(tmp_path):
    corpus = render_corpus(
        tmp_path / "cache", num_train=12, num_validation=1, size=32, num_up_front=0, progress=False
    )
    write_sources(tmp_path, corpus, num_videos=3, num_stills=4)
    videos = rows_of(tmp_path / "videos.csv")
    assert [row["path"] for row in videos] == [f"train/{number:06d}.mp4" for number in range(3)]
    motions = {word for phrases in MOTIONS.values() for pair in phrases for word in pair}
    photos = rows_of(tmp_path / "photos.csv")
    assert len(photos) == 4
    for row in photos:
        number = int(row["path"][-10:-4])
        assert 3 <= number < 12
        scene = corpus.files.scenes[number]
        assert not {"appear", "disappear"} & {event.motion for event in scene.events}
        still = np.asarray(Image.open(tmp_path / row["path"])).transpose(2, 0, 1)
        assert np.array_equal(still, draw_scene(scene, num_frames=32, size=32)[16])
        names = [actor.name for actor in scene.actors]
        assert row["caption"] == "there is a " + " and a ".join(names)
        assert not any(phrase in row["caption"] for phrase in motions)
    with pytest.raises(ValueError, match="has scenes for"):
        write_sources(tmp_path, corpus, num_videos=3, num_stills=10)
