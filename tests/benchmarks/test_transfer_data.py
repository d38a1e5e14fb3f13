"""Annotated clips to fine-tune on: what the annotations say is what the scenes are."""

from pathlib import Path

import pytest

from benchmarks.transfer_data import render_tasks
from simvtp.data import read_clip
from simvtp.data.annotations import load_labelled, load_questions, load_retrieval
from simvtp.data.corpus.drawing import draw_scene
from simvtp.data.corpus.scenes import COLOURS, sample_scenes

NUM_TRAIN, NUM_TEST = 40, 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tasks")


@pytest.fixture(scope="module")
def tasks(folder):
    return render_tasks(folder, num_train=NUM_TRAIN, num_test=NUM_TEST)


@pytest.fixture(scope="module")
def scene_of():
    """The scene of every caption that two seeds of the same kind of clips can hold."""
    return {
        scene.caption: scene
        for split, count in (("train", NUM_TRAIN), ("validation", NUM_TEST))
        for scene in sample_scenes(count, split=split, seed=101)
    }


def mean_difference(path, scene):
    """Between the middle picture of a clip and that of the scene, in shades of 256."""
    seen = read_clip(path, num_frames=32, stride=1)[16].float().numpy()
    return abs(seen - draw_scene(scene)[16]).mean()


def test_captions_are_those_of_the_clips_and_no_test_clip_means_what_was_trained(tasks, scene_of):
    train, test = (load_retrieval(file) for file in tasks["retrieval"])
    assert (len(train), len(test)) == (NUM_TRAIN, NUM_TEST)
    meanings = []
    for records in (train, test):
        scenes = [scene_of[record.captions[0]] for record in records]
        meanings.append({scene.meaning for scene in scenes})
        for record, scene in list(zip(records, scenes, strict=True))[:3]:
            assert mean_difference(record.path, scene) < 8
            assert mean_difference(record.path, scenes[-1]) > 8
    assert not meanings[0] & meanings[1]
    pretrained = {scene.caption for scene in sample_scenes(2000, split="train")}
    assert len({record.captions[0] for record in train} - pretrained) > NUM_TRAIN // 2


def test_answers_count_the_objects_of_the_asked_colour(tasks, scene_of):
    asked = 0
    captions = [load_retrieval(file) for file in tasks["retrieval"]]
    for file, records in zip(tasks["qa"], captions, strict=True):
        caption_of = {Path(record.path): record.captions[0] for record in records}
        questions = load_questions(file)
        for question in questions.questions:
            scene = scene_of[caption_of[Path(questions.records[question.clip].path)]]
            (colour,) = set(question.text.split()) & COLOURS.keys()
            count = sum(actor.colour == colour for actor in scene.actors)
            assert questions.answers[question.answer] == str(count)
            asked += 1
    assert asked == NUM_TRAIN + NUM_TEST
    # Guessing the commonest answer is not enough.
    assert len(load_questions(tasks["qa"].train).answers) > 1


def test_labels_are_motions_and_no_clip_is_in_both_splits(tasks):
    files = [load_labelled(file) for file in tasks["classification"]]
    assert [len(clips.records) for clips in files] == [NUM_TRAIN, NUM_TEST]
    contents = [{Path(record.path).read_bytes() for record in clips.records} for clips in files]
    assert not contents[0] & contents[1]
    for place, clips in enumerate(files):
        drawn = sample_scenes(40 * NUM_TRAIN, split="train", seed=202 + place)
        alone = [scene for scene in drawn if scene.order == "alone"]
        for label, scene in zip(clips.labels, alone, strict=False):
            assert clips.classes[label] == scene.events[0].motion
            assert len(scene.actors) == 1
        for record, scene in list(zip(clips.records, alone, strict=False))[:3]:
            assert mean_difference(record.path, scene) < 8


def test_clips_are_rendered_once_and_whole(tasks, folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}
    assert len(before) == 2 * (NUM_TRAIN + NUM_TEST) + 6 + 1
    assert render_tasks(folder, num_train=NUM_TRAIN, num_test=NUM_TEST) == tasks
    assert all(path.stat().st_mtime_ns == moment for path, (_, moment) in before.items())
    # As after a kill: the last file is missing, and a clip is cut.
    (folder / "done").unlink()
    (folder / "mixed_train" / "000003.mp4").write_bytes(b"cut")
    render_tasks(folder, num_train=NUM_TRAIN, num_test=NUM_TEST)
    assert {path: path.read_bytes() for path in before} == {
        path: data for path, (data, _) in before.items()
    }
