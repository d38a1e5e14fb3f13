import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simvtp.data import ClipRecord, ManifestError, MissingVideosWarning, load_clips, load_retrieval
from testing.data.annotations import Write, error_of, load

MSRVTT = {
    "info": {"year": "2016"},
    "videos": [
        {"video_id": "video0", "split": "train", "url": "u", "start time": 1.0, "id": 0},
        {"video_id": "video7", "split": "validate", "url": "u", "start time": 1.0, "id": 7},
        {"video_id": "video9770", "split": "test", "url": "u", "start time": 1.0, "id": 9770},
    ],
    "sentences": [
        {"caption": "a car", "video_id": "video0", "sen_id": 0},
        {"caption": "a man sings", "video_id": "video7", "sen_id": 1},
        {"caption": "a red car", "video_id": "video0", "sen_id": 2},
        {"caption": "a person", "video_id": "video9770", "sen_id": 3},
    ],
}
MSVD_TEXT = (
    "# Microsoft Research Video Description Corpus\n\n"
    "-4wsuPCjDBc_5_15 a squirrel is eating\n"
    "-4wsuPCjDBc_5_15 a chipmunk\n"
    "a_b-c_d_205_208 a Frau mit Hündchen\n"
)
MSVD_TABLE = (
    "VideoID,Start,End,WorkerID,Source,AnnotationTime,Language,Description\n"
    "mv89psg6zh4,33,46,588702,unverified,55,Slovene,Papagaj se umiva.\n"
    "mv89psg6zh4,33,46,362812,unverified,24,English,A bird in a sink keeps getting wet.\n"
    'mv89psg6zh4,33,46,968828,clean,11,English,"A bird, under a faucet."\n'
    "mv89psg6zh4,33,46,968828,clean,11,English,\n"
    "_0nX-El-ySo,83,93,1,clean,2,English,A man plays.\n"
)
LSMDC = (
    "0001_American_Beauty_00.00.51.926-00.00.54.129\t00.00.51.926\t00.00.54.129\t"
    '00.00.51.426\t00.00.54.629\tSOMEONE "lies" down.\n'
    "0001_American_Beauty_00.00.51.926-00.00.54.129\t0\t0\t0\t0\tShe looks up.\n"
    "1001_Flight_00.00.35.137-00.00.38.137\t0\t0\t0\t0\tA plane.\n"
)
DIDEMO = [
    {"video": "54@N00_24.avi", "times": [[0, 0]], "description": "first a dog ", "num_segments": 6},
    {"video": "12@N02_13.mov", "times": [[1, 1]], "description": "a cat", "num_segments": 6},
    {"video": "54@N00_24.avi", "times": [[2, 3]], "description": "then a cat", "num_segments": 6},
]
ACTIVITYNET = {
    "v_QOlSCBRmfWY": {
        "duration": 82.73,
        "timestamps": [[0.83, 19.86], [17.37, 60.81]],
        "sentences": ["A young woman is seen.", "  The girl dances."],
    },
    "v_ehGHCYKzyZ8": {"duration": 61.7, "timestamps": [[1, 2]], "sentences": [" A man."]},
}


def as_pairs(records: list[ClipRecord], root: Path) -> dict[str, tuple[str, tuple[str, ...]]]:
    return {one.video_id: (str(Path(one.path).relative_to(root)), one.captions) for one in records}


def test_msrvtt_has_its_own_splits_and_takes_lists(write: Write, tmp_path: Path):
    videos = ("TrainValVideo/video0.mp4", "TrainValVideo/video7.mp4", "TestVideo/video9770.mp4")
    # Recognised by what is in it, whatever its name.
    source = write("anything.txt", MSRVTT, *videos)
    root = tmp_path / "videos"
    assert as_pairs(load(source), root) == {
        "video0": (videos[0], ("a car", "a red car")),
        "video7": (videos[1], ("a man sings",)),
        "video9770": (videos[2], ("a person",)),
    }
    assert [one.video_id for one in load(source, split="validate")] == ["video7"]
    table = write("MSRVTT_train.9k.csv", "video_id\nvideo7\nvideo0\n")
    assert [one.video_id for one in load(source, split=table)] == ["video0", "video7"]
    lines = write("train_list_jsfusion.txt", "video9770\r\n\r\n")
    assert [one.video_id for one in load(source, split=lines)] == ["video9770"]
    ids = write("ids.json", ["video0"])
    assert [one.video_id for one in load(source, split=str(ids))] == ["video0"]
    assert "its own (test, train, validate)" in error_of(source, split="val")
    assert "lists videos only: give it as split" in error_of(table)


@pytest.mark.parametrize("delimiter", [",", ";"])
def test_msrvtt_1k_a_table(write: Write, tmp_path: Path, delimiter: str):
    rows = (
        ("key", "vid_key", "video_id", "sentence"),
        ("ret0", "msr9770", "video9770", "a person is connecting something to system"),
        ("ret1", "msr9771", "video9771", "a little girl does gymnastics"),
    )
    text = "".join(delimiter.join(row) + "\r\n" for row in rows)
    source = write("MSRVTT_JSFUSION_test.csv", text, "video9770.mp4", "video9771.webm")
    assert as_pairs(load(source), tmp_path / "videos") == {
        "video9770": ("video9770.mp4", (rows[1][3],)),
        "video9771": ("video9771.webm", (rows[2][3],)),
    }


def test_captions_by_path_of_another_machine(write: Write, tmp_path: Path):
    keys = ("/apdcephfs/dataset/MSRVTT/videos/all/video1.mp4", "sub/video2.mp4", "video3.mp4")
    content = {keys[0]: "one", keys[1]: ["two", "zwei"], keys[2]: "three"}
    files = ("all/video1.mp4", "sub/video2.mp4", "video3.mp4", "other/video2.mp4")
    source = write("train_9k_miech.json", content, *files)
    expected = [(key, files[n]) for n, key in enumerate(keys)]
    records = load(source)
    root = tmp_path / "videos"
    assert [(one.video_id, str(Path(one.path).relative_to(root))) for one in records] == expected
    assert [one.captions for one in records] == [("one",), ("two", "zwei"), ("three",)]


def test_manifests_pass_through(write: Write, tmp_path: Path):
    root = tmp_path / "videos"
    manifests = (
        write("m.csv", "videoid,path,caption\n1,a.mp4,x\n2,sub/b.mp4,y\n", "a.mp4", "sub/b.mp4"),
        write(
            "m.jsonl", '{"path": "a.mp4", "caption": "x"}\n{"path": "sub/b.mp4", "caption": "y"}'
        ),
        write("m.json", '{"a.mp4": "x",\n "sub/b.mp4": ["y"], "a.mp4": "z"}'),
        write("webvid.csv", "videoid,page_dir,name,duration\na,.,x,1\nb,sub,y,2\n"),
    )
    for source in manifests:
        assert list(load_retrieval(source, root=root)) == list(load_clips(source, root=root))
    chosen = load_retrieval(manifests[0], root=root, split=write("list.txt", "2\n"))
    assert [one.video_id for one in chosen] == ["2"]
    assert load_retrieval(write("here.csv", "videoid,path,caption\n1,m.csv,x\n"))[0].captions


def test_msrvtt_in_the_layout_of_coco(write: Write, tmp_path: Path):
    document = {
        "info": {"contributor": "Microsoft"},
        "images": [{"id": "video0"}, {"id": "video7"}],
        "annotations": [
            {"image_id": "video0", "caption": "a car", "id": 0},
            {"image_id": "video7", "caption": "a man sings", "id": 1},
            {"image_id": "video0", "caption": "a red car", "id": 2},
        ],
    }
    source = write("MSR_VTT.json", document, "all/video0.mp4", "all/video7.mp4")
    assert as_pairs(load(source), tmp_path / "videos") == {
        "video0": ("all/video0.mp4", ("a car", "a red car")),
        "video7": ("all/video7.mp4", ("a man sings",)),
    }
    chosen = load(source, split=write("train_list_jsfusion.txt", "video7\n"))
    assert [one.video_id for one in chosen] == ["video7"]
    faulty = write("faulty.json", {"annotations": [{"image_id": "video0"}]})
    with pytest.raises(ManifestError, match="annotation 1: it must be an object with caption"):
        load(faulty)


def test_didemo_joins_a_videos_descriptions(write: Write, tmp_path: Path):
    # One file was encoded anew, which changed or lengthened its name.
    source = write("train_data.json", DIDEMO, "54@N00_24.mp4", "a/12@N02_13.mov.mp4")
    assert as_pairs(load(source), tmp_path / "videos") == {
        "54@N00_24.avi": ("54@N00_24.mp4", ("first a dog then a cat",)),
        "12@N02_13.mov": ("a/12@N02_13.mov.mp4", ("a cat",)),
    }
    # Files of other kinds too, most of which are kept as .mp4.
    others = [{"video": f"7@N0_{end}.{end}", "description": end} for end in ("3gp", "m4v", "wmv")]
    files = ("7@N0_3gp.mp4", "7@N0_m4v.m4v", "7@N0_wmv.wmv.mp4")
    assert [one.path.name for one in load(write("val_data.json", others, *files))] == list(files)
    lists = write("test_list.txt", "12@N02_13.mov\n")
    assert [one.captions for one in load(source, split=lists)] == [("a cat",)]
    several = [{"video": "12@N02_13.mov", "description": ["one", "two"]}]
    assert load(write("other.json", several))[0].captions == ("one two",)


def test_activitynet_joins_sentences(write: Write, tmp_path: Path):
    source = write("val_1.json", ACTIVITYNET, "v_QOlSCBRmfWY.mkv", "ehGHCYKzyZ8.mp4")
    assert as_pairs(load(source), tmp_path / "videos") == {
        "v_QOlSCBRmfWY": ("v_QOlSCBRmfWY.mkv", ("A young woman is seen. The girl dances.",)),
        "v_ehGHCYKzyZ8": ("ehGHCYKzyZ8.mp4", ("A man.",)),
    }
    ids = write("val_ids.json", ["v_ehGHCYKzyZ8", "v_without_a_caption"])
    assert "1 of 2 videos are not" in error_of(source, split=ids)
    with pytest.warns(MissingVideosWarning, match="'v_without_a_caption'"):
        assert [r.video_id for r in load(source, split=ids, missing="leave out")] == [
            "v_ehGHCYKzyZ8"
        ]


def test_msvd_as_text_and_as_table(write: Write, tmp_path: Path):
    root = tmp_path / "videos"
    source = write(
        "AllVideoDescriptions.txt",
        MSVD_TEXT,
        *("YouTubeClips/-4wsuPCjDBc_5_15.avi", "YouTubeClips/a_b-c_d_205_208.avi"),
    )
    assert as_pairs(load(source), root) == {
        "-4wsuPCjDBc_5_15": (
            "YouTubeClips/-4wsuPCjDBc_5_15.avi",
            ("a squirrel is eating", "a chipmunk"),
        ),
        "a_b-c_d_205_208": ("YouTubeClips/a_b-c_d_205_208.avi", ("a Frau mit Hündchen",)),
    }
    lists = write("train_list.txt", "a_b-c_d_205_208\n")
    assert len(load(source, split=lists)) == 1
    table = write("corpus.csv", MSVD_TABLE, "mv89psg6zh4_33_46.avi", "_0nX-El-ySo_83_93.avi")
    assert as_pairs(load(table), root) == {
        "mv89psg6zh4_33_46": (
            "mv89psg6zh4_33_46.avi",
            ("A bird in a sink keeps getting wet.", "A bird, under a faucet."),
        ),
        "_0nX-El-ySo_83_93": ("_0nX-El-ySo_83_93.avi", ("A man plays.",)),
    }


def test_lsmdc_names_hold_dots(write: Write, tmp_path: Path):
    names = (
        "0001_American_Beauty/0001_American_Beauty_00.00.51.926-00.00.54.129.avi",
        "1001_Flight/1001_Flight_00.00.35.137-00.00.38.137.avi",
    )
    source = write("LSMDC16_annos_training.csv", LSMDC, *names)
    assert as_pairs(load(source), tmp_path / "videos") == {
        Path(names[0]).name[:-4]: (names[0], ('SOMEONE "lies" down.', "She looks up.")),
        Path(names[1]).name[:-4]: (names[1], ("A plane.",)),
    }


def test_missing_videos_are_counted_and_refused_or_left_out(write: Write):
    source = write("captions.json", MSRVTT, "video7.mp4")
    message = error_of(source)
    assert "2 of 3 videos are not under" in message
    assert "'video0' (sentence 1), 'video9770' (sentence 4)" in message
    with pytest.warns(MissingVideosWarning, match="2 of 3 videos") as warned:
        assert [one.video_id for one in load(source, missing="leave out")] == ["video7"]
    assert warned[0].filename == load.__code__.co_filename
    (source.parents[1] / "videos" / "video7.mp4").unlink()
    assert "3 of 3 videos" in error_of(source, missing="leave out")
    with pytest.raises(ValueError, match="'refuse' or 'leave out', got 'skip'"):
        load(source, missing="skip")


captions = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1).filter(str.strip)


@given(st.lists(st.tuples(st.integers(0, 3), captions), min_size=1, max_size=12))
def test_captions_keep_their_order(tmp_path_factory: pytest.TempPathFactory, rows: list):
    folder = tmp_path_factory.mktemp("given")
    for number in range(4):
        (folder / f"video{number}.mp4").touch()
    sentences = [{"video_id": f"video{number}", "caption": text} for number, text in rows]
    (folder / "data").write_text(json.dumps({"sentences": sentences}), "utf-8")
    records = load_retrieval(folder / "data")
    assert [one.video_id for one in records] == list(
        dict.fromkeys(f"video{number}" for number, _ in rows)
    )
    for record in records:
        expected = [text.strip() for n, text in rows if f"video{n}" == record.video_id]
        assert list(record.captions) == expected
