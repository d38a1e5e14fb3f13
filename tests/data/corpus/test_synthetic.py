import csv
import multiprocessing
import os
import pickle
import signal
import time
from collections.abc import Callable
from fractions import Fraction
from operator import itemgetter
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from simvtp.data import (
    ClipDataset,
    ClipTable,
    EpochSampler,
    ManifestError,
    build_loader,
    load_manifest,
)
from simvtp.data.corpus import rendering as synthetic
from simvtp.data.corpus.drawing import draw_scene
from simvtp.data.corpus.rendering import Corpus, render_corpus, render_scenes
from simvtp.data.corpus.scenes import sample_scenes

MINI = {"num_train": 6, "num_validation": 3, "num_frames": 8, "num_processes": 1}


def rows(manifest: Path) -> list[dict[str, str]]:
    with manifest.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def mini(folder: Path, **overrides: int) -> Corpus:
    return render_corpus(folder, **{**MINI, **overrides}, progress=False)


def test_rendered_clips_are_h264_of_the_stated_size_and_look_as_drawn(tmp_path: Path) -> None:
    corpus = mini(tmp_path, num_frames=20, size=72)
    assert [row["videoid"] for row in rows(corpus.train)] == [f"train-{i:06d}" for i in range(6)]
    scenes = sample_scenes(3, split="validation")
    for scene, row in zip(scenes, rows(corpus.validation), strict=True):
        assert row["caption"] == scene.caption
        with av.open(str(corpus.root / row["path"])) as container:
            stream = container.streams.video[0]
            assert stream.codec_context.name == "h264"
            assert stream.average_rate == Fraction(16)
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        drawn = draw_scene(scene, num_frames=20, size=72).transpose(0, 2, 3, 1)
        assert np.shape(frames) == (20, 72, 72, 3)
        assert np.abs(np.stack(frames).astype(int) - drawn).mean() < 8


def test_captions_with_commas_survive_the_manifest(tmp_path: Path) -> None:
    captions = [scene.caption for scene in sample_scenes(30, split="train")]
    assert any("," in caption for caption in captions)
    corpus = mini(tmp_path, num_train=30, num_frames=2, size=32)
    assert [row["caption"] for row in rows(corpus.train)] == captions
    assert list(rows(corpus.train)[0]) == ["videoid", "path", "caption"]


def test_rendering_is_reproducible_byte_for_byte_and_reused(tmp_path: Path) -> None:
    first, second = mini(tmp_path / "one"), mini(tmp_path / "two")
    files = sorted(path.relative_to(first.root) for path in first.root.rglob("*.*"))
    assert len(files) == 6 + 3 + 3
    for file in files:
        assert (first.root / file).read_bytes() == (second.root / file).read_bytes()
    before = first.train.stat().st_mtime_ns
    started = time.perf_counter()
    assert mini(tmp_path / "one") == first
    assert time.perf_counter() - started < 0.5
    assert first.train.stat().st_mtime_ns == before
    assert mini(tmp_path / "one", seed=1).root != first.root


def test_cache_folder_follows_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIMVTP_CACHE", str(tmp_path / "cache"))
    corpus = render_corpus(None, **MINI, progress=False)
    assert corpus.root.parent == tmp_path / "cache"


def test_a_failed_render_leaves_whole_clips_and_the_next_one_completes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = synthetic._write_video

    def stop(path: Path, frames: np.ndarray) -> None:
        write(path, frames)
        if "000003" in path.name:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(synthetic, "_write_video", stop)
        with pytest.raises(KeyboardInterrupt):
            mini(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("train/*")) == [
        f"{number:06d}.mp4" for number in range(3)
    ]
    assert len(list(mini(tmp_path).root.rglob("*.mp4"))) == 9


def test_what_a_killed_process_was_drawing_is_not_taken_for_a_clip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = mini(tmp_path, num_up_front=0)
    (clip,) = (clip for clip in corpus.train_clips() if clip.video_id == "train-000004")
    write = synthetic._write_video

    def die(path: Path, frames: np.ndarray) -> None:
        write(path, frames)
        os.truncate(path, path.stat().st_size // 2)
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(synthetic, "_write_video", die)
    child = multiprocessing.get_context("fork").Process(target=corpus.files.local, args=[clip.path])
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    monkeypatch.undo()
    (leftover,) = (corpus.root / "train").iterdir()
    assert not Path(clip.path).exists()
    whole = mini(tmp_path / "other")
    drawn = corpus.files.local(clip.path)
    assert drawn.read_bytes() == (whole.root / "train" / "000004.mp4").read_bytes()
    # A crash of the machine may leave the name alone.
    os.truncate(drawn, 0)
    assert corpus.files.local(clip.path).stat().st_size > leftover.stat().st_size


def test_clips_that_are_asked_for_are_drawn_as_they_would_be_up_front(tmp_path: Path) -> None:
    whole = mini(tmp_path / "whole", num_train=9)
    corpus = mini(tmp_path / "beside", num_up_front=0)
    assert len(list(corpus.root.rglob("*.mp4"))) == len(corpus.validation_clips()) == 3
    clips = corpus.train_clips()
    # Clips are the same whatever their number.
    assert [clip.captions for clip in clips] == [c.captions for c in whole.train_clips()[:6]]
    with pytest.raises(ManifestError, match=r"no file 'train/000000\.mp4'"):
        load_manifest(corpus.train)
    for number in (4, 1):
        path = pickle.loads(pickle.dumps(corpus.files)).local(clips[number].path)
        assert path == clips[number].path
        assert path.read_bytes() == (whole.root / path.relative_to(corpus.root)).read_bytes()
    assert len(list(corpus.root.rglob("*.mp4"))) == 5
    assert len(list(mini(tmp_path / "beside", num_up_front=1).root.rglob("*.mp4"))) == 6
    assert len(load_manifest(mini(tmp_path / "beside").train)) == 6


@pytest.mark.parametrize("num_workers", [0, 2])
def test_workers_draw_what_they_need_beside_each_other(
    num_workers: int, tmp_path: Path, make_dataset: Callable[..., ClipDataset]
) -> None:
    whole = mini(tmp_path / "whole")
    corpus = mini(tmp_path / "beside", num_up_front=0)

    def videos(clips: ClipTable, **settings: object) -> list[torch.Tensor]:
        dataset = make_dataset(clips, num_starts=1, **settings)
        sampler = EpochSampler(6, seed=0, batch_size=1)
        loader = build_loader(
            dataset, sampler=sampler, num_workers=num_workers, collate=itemgetter(0)
        )
        return [sample.video for sample in loader]

    drawn = [videos(corpus.train_clips(), files=corpus.files) for _ in range(2)]
    for video, *others in zip(videos(whole.train_clips()), *drawn, strict=True):
        assert all(torch.equal(video, other) for other in others)


def test_a_damaged_corpus_is_rendered_again(tmp_path: Path) -> None:
    corpus = mini(tmp_path)
    (corpus.root / "train" / "000002.mp4").unlink()
    assert mini(tmp_path) == corpus
    assert (corpus.root / "train" / "000002.mp4").is_file()
    assert list(tmp_path.iterdir()) == [corpus.root]


def test_the_slower_of_two_renders_takes_the_faster_ones_corpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    render = synthetic._render
    published: list[Corpus] = []

    def overtake(*args: object, **kwargs: object) -> None:
        monkeypatch.setattr(synthetic, "_render", render)
        published.append(mini(tmp_path))
        (published[0].root / "seen").touch()
        render(*args, **kwargs)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(synthetic, "_render", overtake)
    assert mini(tmp_path) == published[0]
    assert (published[0].root / "seen").is_file()
    assert list(tmp_path.iterdir()) == [published[0].root]


def test_leftovers_of_killed_renders_go_after_a_day(tmp_path: Path) -> None:
    folder = mini(tmp_path).root / "train"
    old, young = folder / ".000000.1.mp4", folder / ".000000.2.mp4"
    for file in (old, young):
        file.touch()
    os.utime(old, (0, time.time() - 2 * 86400))
    mini(tmp_path)
    assert not old.exists()
    assert young.exists()


def test_two_processes_render_the_same_bytes_as_one(tmp_path: Path) -> None:
    one, two = mini(tmp_path / "one"), mini(tmp_path / "two", num_processes=2)
    for path in one.root.rglob("*.mp4"):
        assert path.read_bytes() == (two.root / path.relative_to(one.root)).read_bytes()
    assert not multiprocessing.active_children()


def test_scenes_of_ones_own_choice_are_rendered_like_the_corpus(tmp_path: Path) -> None:
    corpus = mini(tmp_path, size=48)
    chosen = sample_scenes(6, split="train")[::-2]
    settings = {"size": 48, "num_frames": MINI["num_frames"], "num_processes": 1}
    paths = render_scenes(tmp_path / "own" / "clips", chosen, **settings, progress=False)
    assert [str(path.relative_to(tmp_path)) for path in paths] == [
        f"own/clips/{number:06d}.mp4" for number in range(3)
    ]
    assert [path.read_bytes() for path in paths] == [
        (corpus.root / "train" / f"{number:06d}.mp4").read_bytes() for number in (5, 3, 1)
    ]
    assert len({path.read_bytes() for path in paths}) == 3


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"num_train": 0}, "num_train must be at least 1, got 0"),
        ({"size": 75}, "even for H.264, got 75; take 76"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"num_processes": 0}, "num_processes must be at least 1"),
    ],
)
def test_wrong_numbers_are_refused(tmp_path: Path, overrides: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mini(tmp_path, **overrides)
    assert list(tmp_path.iterdir()) == []
