from pathlib import Path

import numpy as np
import pytest

from simvtp.data import LabelledClips, ManifestError, MissingVideosWarning, load_labelled
from simvtp.data.annotations.class_formats import ClassNumbersWarning
from testing.data.annotations import Write

KINETICS = (
    "label,youtube_id,time_start,time_end,split,is_cc\n"
    "testifying,---QUuC4vJs,84,94,validate,0\n"
    '"riding, or walking",--GkrdYZ9Tc,0,10,validate,0\n'
    "air drumming,-3B32lodo2M,107.0,117.0,train,0\n"
    "air drumming,--nQbRBEz2s,104,114,validate,1\n"
)
KINETICS_FILES = (
    "val/testifying/---QUuC4vJs_000084_000094.mp4",
    "val/riding/--GkrdYZ9Tc_000000_000010.mp4",
    "train/-3B32lodo2M_000107_000117.mkv",
    "val/--nQbRBEz2s_000104_000114.mp4",
)
SSV2 = [
    {
        "id": "78687",
        "label": "holding potato next to vicks vaporub bottle",
        "template": "Holding [something] next to [something]",
        "placeholders": ["potato", "vicks vaporub bottle"],
    },
    {"id": "42326", "label": "x", "template": "Showing [part] of [something]", "placeholders": []},
    {"id": "100904", "label": "x", "template": "Showing [part] of [something]", "placeholders": []},
]
SSV2_LABELS = {"Showing part of something": "1", "Holding something next to something": "0"}


def load(source: Path, **settings: object) -> LabelledClips:
    root = source.parents[1] / "videos"
    return load_labelled(source, root=root, **settings)  # pyright: ignore[reportArgumentType]


def as_pairs(clips: LabelledClips, root: Path) -> dict[str, str]:
    """Class by the path of the file, and what always holds."""
    assert clips.labels.dtype == np.int64
    assert clips.labels.shape == (len(clips.records),)
    names = [clips.classes[label] for label in clips.labels]
    assert [one.captions for one in clips.records] == [(name,) for name in names]
    files = [str(Path(one.path).relative_to(root)) for one in clips.records]
    return dict(zip(files, names, strict=True))


def error_of(source: Path, **settings: object) -> str:
    with pytest.raises(ManifestError) as error:
        load(source, **settings)
    return str(error.value)


def test_kinetics(write: Write, tmp_path: Path):
    source = write("validate.csv", KINETICS, *KINETICS_FILES)
    clips = load(source)
    assert clips.classes == ("air drumming", "riding, or walking", "testifying")
    assert as_pairs(clips, tmp_path / "videos") == {
        KINETICS_FILES[0]: "testifying",
        KINETICS_FILES[1]: "riding, or walking",
        KINETICS_FILES[2]: "air drumming",
        KINETICS_FILES[3]: "air drumming",
    }
    train = load(source, split="train")
    assert train.classes == ("air drumming",)
    assert [one.video_id for one in train.records] == ["-3B32lodo2M_000107_000117"]
    assert "it lists nothing" in error_of(source, split="test")
    unlabelled = write("test.csv", "youtube_id,time_start,time_end,split\n-Q,84,94,test\n")
    assert "it has no column label" in error_of(unlabelled)


def test_something_somethings_answers_for_its_test(write: Write, tmp_path: Path):
    write("labels.json", SSV2_LABELS)
    lines = "1420;Showing part of something\r\n3;Holding something next to something\n"
    source = write("test-answers.csv", lines, "1420.webm", "a/3.webm")
    clips = load(source, classes=load(write("train.json", SSV2[:1], "78687.webm")).classes)
    assert clips.classes == tuple(sorted(SSV2_LABELS))
    assert as_pairs(clips, tmp_path / "videos") == {
        "1420.webm": "Showing part of something",
        "a/3.webm": "Holding something next to something",
    }
    assert load(source).classes == clips.classes
    faulty = write("faulty.csv", "1420;Showing part of something\n3,Holding\n")
    assert "line 2: it must be a number, a semicolon and a class" in error_of(faulty)


def test_classes_come_from_the_training_split(write: Write):
    source = write("kinetics.csv", KINETICS, *KINETICS_FILES)
    classes = ("testifying", "unused", "air drumming", "riding, or walking")
    clips = load(source, classes=classes)
    assert clips.classes == classes
    assert clips.labels.tolist() == [0, 3, 2, 2]
    message = error_of(source, classes=classes[:3])
    assert "line 3: class 'riding, or walking' is not among the 3 classes" in message
    with pytest.raises(ValueError, match="classes must differ"):
        load(source, classes=("a", "a"))


def test_something_something(write: Write, tmp_path: Path):
    files = ("20bn/78687.webm", "20bn/42326.webm", "20bn/100904.webm")
    source = write("train.json", SSV2, *files)
    # Without the file of classes they are sorted, with it they have the release's numbers.
    assert load(source).classes == tuple(sorted(SSV2_LABELS))
    write("labels.json", dict(reversed(SSV2_LABELS.items())))
    clips = load(source)
    assert clips.classes == tuple(sorted(SSV2_LABELS, key=SSV2_LABELS.__getitem__))
    assert as_pairs(clips, tmp_path / "videos") == {
        files[0]: "Holding something next to something",
        files[1]: "Showing part of something",
        files[2]: "Showing part of something",
    }
    numbers = {"Showing part of something": "7", "Holding something next to something": "3"}
    write("labels.json", numbers)
    with pytest.warns(ClassNumbersWarning, match="numbers 3 to 7 and none has 0"):
        assert load(source).classes == tuple(sorted(numbers, key=numbers.__getitem__))
    write("labels.json", dict.fromkeys(numbers, "0"))
    assert "each class must have a name and a number of its own" in error_of(source)
    write("labels.json", {"Showing part of something": "0"})
    assert "entry 1: class 'Holding something next to something' is not among" in error_of(source)
    test = write("test.json", [{"id": "1420"}])
    assert "entry 1: it must be an object with template" in error_of(test)


def test_ucf(write: Write, tmp_path: Path):
    files = (
        "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi",
        "Archery/v_Archery_g01_c07.avi",
        "v_Archery_g02_c01.avi",
    )
    write("classInd.txt", "1 ApplyEyeMakeup\r\n2 Archery\r\n3 YoYo\r\n")
    train = write("trainlist01.txt", f"{files[0]} 1\r\n{files[1]} 2\r\nArchery/{files[2]} 2\r\n")
    write("none", "", *files)
    clips = load(train)
    assert clips.classes == ("ApplyEyeMakeup", "Archery", "YoYo")
    expected = {files[0]: "ApplyEyeMakeup", files[1]: "Archery", files[2]: "Archery"}
    assert as_pairs(clips, tmp_path / "videos") == expected
    test = write("testlist01.txt", f"{files[1]}\n{files[0]}\n")
    assert load(test).labels.tolist() == [1, 0]
    wrong = write("trainlist02.txt", f"{files[0]} 2\n{files[1]} 0\n")
    assert "2 problems" in error_of(wrong)
    assert "line 1: class 2 is not ApplyEyeMakeup in classInd.txt" in error_of(wrong)
    (train.parent / "classInd.txt").unlink()
    for source in (test, train):
        assert load(source).classes == ("ApplyEyeMakeup", "Archery")


def test_hmdb(write: Write, tmp_path: Path):
    wave = ("wave/a_wave_f_nm_np1_fr_med_0.avi", "wave/b_wave_u_nm_np1_fr_med_1.avi")
    jump = ("jump/a jump #1.avi", "jump/b_jump.avi")
    source = write(
        "wave_test_split1.txt",
        "a_wave_f_nm_np1_fr_med_0.avi 1 \nb_wave_u_nm_np1_fr_med_1.avi 2 \nunused.avi 0 \n",
        *(*wave, *jump),
    )
    write("jump_test_split1.txt", "a jump #1.avi 1 \nb_jump.avi 2 \n")
    write("jump_test_split2.txt", "not to be read")
    train = load(source, split="train")
    assert train.classes == ("jump", "wave")
    assert as_pairs(train, tmp_path / "videos") == {jump[0]: "jump", wave[0]: "wave"}
    test = load(source, split="test", classes=train.classes)
    assert as_pairs(test, tmp_path / "videos") == {jump[1]: "jump", wave[1]: "wave"}
    assert "split must be train or test for HMDB51, got None" in error_of(source)
    assert "it must be a file and 0, 1 or 2, got 'a.avi 3'" in error_of(
        write("run_test_split3.txt", "a.avi 3\n"), split="train"
    )


@pytest.mark.parametrize("separator", [" ", ",", ", ", "\t", ";"])
def test_lists_of_path_and_number(write: Write, tmp_path: Path, separator: str):
    root = tmp_path / "videos"
    files = ("some folder/a 1.mp4", "b.mp4", "c,2.mp4")
    write("none", "", *files)
    paths = (files[0], str(root / files[1]), files[2])
    lines = [f"{path}{separator}{n}\n" for path, n in zip(paths, (2, 0, 1), strict=True)]
    source = write("train.csv", "".join(lines))
    clips = load(source)
    assert clips.classes == ("0", "1", "2")
    assert as_pairs(clips, root) == {files[0]: "2", files[1]: "0", files[2]: "1"}
    assert load(source, classes=("a", "b", "c")).classes == ("a", "b", "c")
    assert "line 1: class 2 is not among the 2 classes" in error_of(source, classes=("a", "b"))
    assert "leaves the root" in error_of(write("t.csv", f"/data/k400/b.mp4{separator}0\n"))
    assert "line 2: it must be a path and a number" in error_of(write("t.csv", lines[1] + "x"))


@pytest.mark.parametrize(
    ("numbers", "note"),
    [((1, 2, 1), "1 to 2 and none has 0"), ((0, 2, 0), "0 to 2 and none has 1")],
)
def test_classes_numbered_from_one_or_with_gaps_are_read_with_a_note(write: Write, numbers, note):
    source = write("list.txt", "".join(f"{n}.mp4 {c}\n" for n, c in enumerate(numbers)))
    for number in range(3):
        write("list.txt", source.read_text(), f"{number}.mp4")
    with pytest.warns(ClassNumbersWarning, match=note):
        clips = load(source)
    assert [clips.classes[label] for label in clips.labels] == [str(c) for c in numbers]
    # Another split has the classes of the training split, whichever of them it holds.
    other = write("other.txt", f"0.mp4 {numbers[1]}\n")
    assert load(other, classes=clips.classes).labels.tolist() == [1]
    write("other.txt", "0.mp4 9\n")
    assert "class 9 is not among the 2 classes" in error_of(other, classes=clips.classes)


def test_our_own_table(write: Write, tmp_path: Path):
    source = write(
        "clips.csv",
        'path,source,label\na.mp4,x,moves left\nsub/b,x," right, fast"\na.mp4,y,moves left\n',
        *("a.mp4", "sub/b.avi"),
    )
    clips = load(source)
    assert clips.classes == ("moves left", "right, fast")
    assert as_pairs(clips, tmp_path / "videos") == {
        "a.mp4": "moves left",
        "sub/b.avi": "right, fast",
    }


def test_a_video_has_one_class(write: Write):
    source = write("c.csv", "path,label\na.mp4,x\na.mp4,y\na.mp4,z\n", "a.mp4")
    message = error_of(source)
    assert "2 problems" in message
    assert "line 3: 'a.mp4' has class 'y', on line 2 it has 'x'" in message
    again = write("c.csv", "path,label\na.mp4,x\n./a.mp4,x\n", "a.mp4")
    assert "line 3: line 2 already names its file a.mp4" in error_of(again)


def test_classes_of_missing_videos_stay(write: Write):
    source = write("k.csv", KINETICS, *KINETICS_FILES[1:])
    assert "1 of 4 videos" in error_of(source)
    with pytest.warns(MissingVideosWarning, match="'---QUuC4vJs_000084_000094' .line 2."):
        clips = load(source, missing="leave out")
    assert clips.classes == ("air drumming", "riding, or walking", "testifying")
    assert clips.labels.tolist() == [1, 0, 0]


FAULTS = [
    ("hello\n", {}, "which no known format does; give Kinetics"),
    ({"a": "0"}, {}, "which no known format does"),
    ("path,label\na.mp4,x\n", {"split": "train"}, "it holds one split only"),
    ("path,label\na.mp4\n", {}, "line 2: it has 1 cells, the header has 2"),
    ("path,label\n../a.mp4,x\n", {}, "line 2: path '../a.mp4' leaves the root"),
    ("path,label\na.mp4,\n", {}, "line 2: label '' is empty"),
    (KINETICS.replace("84,94", "x,94"), {}, "line 2: time_start must be a whole number, got 'x'"),
    (KINETICS.replace("84,94", "-4,94"), {}, "time_start must be a whole number, got '-4'"),
    ("label,youtube_id,time_start,time_end\na,b,0,1\n", {"split": "x"}, "it has no column split"),
    ([{"id": "../a", "template": "x"}], {}, "id must be a whole number, got '../a'"),
    ([{"id": True, "template": "x"}], {}, "id must be a whole number, got True"),
    ([{"id": 1, "template": ["x"]}], {}, "template must be a text"),
    (["x"], {}, "entry 1: it must be an object with id"),
    ("A/a.avi\nb\n", {}, "line 2: it must be Class/file.avi"),
    ("A/a.avi\nA/../../b.avi\n", {}, "line 2: it must be Class/file.avi"),
    ("../a.avi\n", {}, "leaves the root"),
]


@pytest.mark.parametrize(("content", "settings", "expected"), FAULTS)
def test_faults_are_named(write: Write, content: object, settings: dict, expected: str):
    assert expected in error_of(write("annotation", content, "a.mp4"), **settings)
