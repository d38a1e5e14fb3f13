"""Tables as people have them: accepted with the right pairs, or refused with what to do."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from simvtp.data import ManifestError, load_clips, load_retrieval
from simvtp.data.sources import require_captions

Pairs = dict[str, tuple[str, ...]]
Write = Callable[[str, str | bytes], Path]
SWAN, DOG = "clips/swan.mp4", "Ein Hund.mp4"
PAIRS: Pairs = {SWAN: ("a swan, swimming",), DOG: ("ein süßer Hund",)}
ROWS = [(SWAN, "a swan, swimming"), (DOG, "ein süßer Hund")]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SIMVTP_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a table into a folder that holds clips/swan.mp4, another file and that of a dog."""
    (tmp_path / "clips").mkdir()
    for name in (SWAN, DOG, "clips/geese.webm"):
        (tmp_path / name).touch()

    def write(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def table(separator: str, *rows: tuple[str, ...], quote: str = '"') -> str:
    cells = ([f"{quote}{cell}{quote}" for cell in row] for row in rows)
    return "".join(separator.join(row) + "\r\n" for row in cells)


def pairs(source: Path, **settings: Any) -> Pairs:
    clips = load_clips(source, **settings)
    return {str(Path(str(clip.path)).relative_to(clips.root)): clip.captions for clip in clips}


def reversed_rows() -> list[tuple[str, ...]]:
    return [("1", *row[::-1]) for row in ROWS]


ACCEPTED: dict[str, tuple[str, str | bytes, str]] = {
    "commas": ("t.csv", table(",", ("path", "caption"), *ROWS), "separator ','; UTF-8"),
    "semicolons": (
        "t.csv",
        table(";", ("File", "Text"), *ROWS),
        "path from column 'File', caption from 'Text'; separator ';'; UTF-8",
    ),
    "tabs": ("t.tsv", table("\t", ("filename", "sentence"), *ROWS, quote=""), "separator tab"),
    "tabs in a csv": ("t.csv", table("\t", ("filename", "sentence"), *ROWS), "separator tab"),
    "pipes": ("t.psv", table("|", ("video", "description"), *ROWS), "separator '|'"),
    "any order": (
        "t.csv",
        table(",", ("", "Caption", "Video Path"), *reversed_rows()),
        "path from column 'Video Path', caption from 'Caption'",
    ),
    "many columns": (
        "t.csv",
        table(
            ",", ("index", "caption", "FILE_NAME", "fps"), *((*r, "25") for r in reversed_rows())
        ),
        "path from column 'FILE_NAME', caption from 'caption'",
    ),
    "Excel's CSV UTF-8": (
        "t.csv",
        table(";", ("path", "caption"), *ROWS).encode("utf-8-sig"),
        "separator ';'; UTF-8",
    ),
    "Excel's Unicode text": (
        "t.txt",
        table("\t", ("path", "caption"), *ROWS, quote="").encode("utf-16"),
        "separator tab; UTF-16",
    ),
    "Excel's old CSV": (
        "t.csv",
        table(";", ("path", "caption"), *ROWS).encode("cp1252"),
        "separator ';'; cp1252, since it is no UTF-8",
    ),
    "no header": ("t.csv", table(",", *ROWS), "separator ',', without a header; UTF-8"),
    "empty rows": (
        "t.csv",
        "\n\n" + table(";", ("path", "caption"), *ROWS) + ";\r\n;\r\n\n",
        "caption from 'caption'",
    ),
    "a name of its own and others": (
        "t.csv",
        table(",", ("file", "path", "text", "caption"), *(("x", r[0], "y", r[1]) for r in ROWS)),
        "path from column 'path', caption from 'caption'",
    ),
    "lines of JSON": (
        "t.jsonl",
        "\n".join(json.dumps({"fps": 1, "Video_Path": a, "Text": b}) for a, b in ROWS),
        "JSON, an object on each line; UTF-8",
    ),
    "JSON of several captions": (
        "t.json",
        json.dumps([{"video": a, "captions": [b]} for a, b in ROWS]),
        "JSON; UTF-8",
    ),
}


@pytest.mark.parametrize("kind", ACCEPTED)
def test_accepted_with_the_right_pairs(kind: str, write: Write):
    name, content, understood = ACCEPTED[kind]
    source = write(name, content)
    assert pairs(source) == PAIRS
    told = load_clips(source).summary()
    assert told.startswith("2 clips, 2 captions; ")
    assert understood in told
    # The commands that know benchmarks read the same.
    assert [clip.captions for clip in load_retrieval(source)] == list(PAIRS.values())


def test_parquet_with_lists_of_captions(write: Write, tmp_path: Path):
    rows = {"clip_name": [SWAN, DOG], "captions": [["one", "two"], ["drei"]], "fps": [25, 30]}
    pq.write_table(pa.table(rows), tmp_path / "t.parquet")
    source = tmp_path / "t.parquet"
    assert pairs(source) == {SWAN: ("one", "two"), DOG: ("drei",)}
    expected = "2 clips, 3 captions; path from column 'clip_name', caption from 'captions'; Parquet"
    assert load_clips(source).summary() == expected
    pq.write_table(pa.table({"path": ["a", None]}), source)
    with pytest.raises(ManifestError, match=r"row 1: no file 'a' .*\n.*row 2: videoid must be"):
        load_clips(source)
    source.write_bytes(b"PAR1 and no more")
    with pytest.raises(ManifestError, match=r"t\.parquet: .*write it again"):
        load_clips(source)


LISTS = {
    "t.txt": f"{SWAN}\n\n{DOG}\n",
    "t.lst": f"{SWAN}\r\n{DOG}",
    "t.csv": f"file\n{SWAN}\n{DOG}\n",
    "u.csv": f"{SWAN}\n{DOG}\n",
    "t.tsv": f"path\tsize\n{SWAN}\t1\n{DOG}\t2\n",
}


@pytest.mark.parametrize("name", LISTS)
def test_lists_without_captions_are_for_what_needs_none(name: str, write: Write):
    source = write(name, LISTS[name])
    assert pairs(source) == {SWAN: (), DOG: ()}
    assert load_clips(source).summary().startswith("2 clips, no captions; ")
    with pytest.raises(
        ManifestError, match=r"2 of 2 clips have no caption.*, and training.*which column"
    ):
        require_captions(load_clips(source), source=source, purpose="training")
    with pytest.raises(ManifestError, match="and retrieval needs one of each"):
        load_retrieval(source)


def test_a_column_that_may_be_captions_is_named(write: Write):
    source = write("t.csv", "clip,what\nclips/swan.mp4,a swan\n")
    said = "no column is known as captions (there is what; columns caption=what if it holds them)"
    assert said in load_clips(source).summary()


@pytest.mark.parametrize("column", ["image", "image_path", "photo"])
def test_photographs_are_named_as_such(column: str, write: Write):
    source = write("t.csv", f"{column},caption\nclips/swan.mp4,a swan\n")
    assert pairs(source) == {SWAN: ("a swan",)}
    # A picture of each video is not the video.
    beside = write("u.csv", f"video_id,{column},caption\nclips/swan,s.jpg,a swan\n")
    assert pairs(beside) == {"clips/swan.mp4": ("a swan",)}


def test_columns_are_named_as_each_command_does(write: Write):
    source = write("t.csv", "clip one,what\nx,y\n")
    with pytest.raises(
        ManifestError, match=r"--columns path=.* pretrain and finetune: --data\.col"
    ):
        load_clips(source)


def test_an_id_is_the_name_of_a_file_without_its_ending(write: Write):
    source = write("t.csv", "video_id,text\nclips/geese,wild geese\n")
    assert pairs(source) == {"clips/geese.webm": ("wild geese",)}
    assert load_clips(source)[0].video_id == "clips/geese"


def test_paths_of_this_machine_that_lie_below_the_root(write: Write, tmp_path: Path):
    source = write("t.csv", f"path,caption\n{tmp_path / SWAN},x\n")
    assert pairs(source) == {SWAN: ("x",)}
    (tmp_path / "linked").symlink_to(tmp_path)
    assert pairs(tmp_path / "linked" / "t.csv") == {SWAN: ("x",)}


def test_columns_that_are_named(write: Write):
    rows = [("key", "what", "where"), *(("1", text, path) for path, text in ROWS)]
    source = write("t.csv", table(";", *rows))
    asked = "path=where,caption=what"
    assert pairs(source, columns=asked) == PAIRS
    assert [c.captions for c in load_retrieval(source, columns=asked)] == list(PAIRS.values())
    both = write("u.csv", "path,text,description\nclips/swan.mp4,a,b\n")
    assert pairs(both, columns="caption=description") == {SWAN: ("b",)}
    bare = write("v.csv", "7,a swan,clips/swan.mp4\n")
    assert pairs(bare, columns="path=3,caption=2,videoid=1") == {SWAN: ("a swan",)}
    assert load_clips(bare, columns="path=3,caption=2,videoid=1")[0].video_id == "7"
    lines = write("w.jsonl", '{"where": "clips/swan.mp4", "what": "x"}')
    assert pairs(lines, columns=asked) == {SWAN: ("x",)}


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("t.csv", "path,text,description\na,b,c\n", "--columns caption=text or caption="),
        ("t.csv", "file,filename,text\na,b,c\n", "several columns could be the path: file, filen"),
        ("t.jsonl", '{"path": "a", "text": "b", "sentence": "c"}', "say which: --columns caption="),
        ("t.csv", "n;Datei;Beschreibung\n1;swan.mp4;ein Schwan\n", "path=Datei,caption=Beschreib"),
        ("t.csv", "1,clips/swan.mp4,a swan\n", "such as --columns path=2,caption=3"),
        ("t.txt", "clips/swan.mp4 a swan\n", "neither a row of names such as path,caption nor"),
        ("t.csv", "path,path,caption\na,b,c\n", "the column 'path' is there twice; rename one"),
        ("t.xlsx", b"PK\3\4", "save it as CSV UTF-8"),
        (
            "t.csv",
            "path,caption\nclips/swan.MP4,x\n",
            "'clips/swan.MP4' under the root: there is",
        ),
        ("t.csv", "path,caption\nclips/swan,x\n", "there is 'clips/swan.mp4'; fix the path or set"),
        ("t.csv", "path,caption\nclips/geese.mp4,x\n", "there is 'clips/geese.webm'"),
        ("t.csv", "path,caption\nCLIPS/swan.mp4,x\n", "there is 'clips/swan.mp4'"),
        ("t.csv", "path,caption\nclips\\swan.mp4,x\n", "there is 'clips/swan.mp4'"),
        ("t.csv", "path,caption\nclips/swann.mp4,x\n", "there is 'clips/swan.mp4'"),
        ("t.csv", "path,caption\nswan.mp4,x\n", "there is 'clips/swan.mp4'"),
        ("t.csv", "path,caption\nwhale.mp4,x\n", "no file 'whale.mp4' under the root; fix"),
        ("t.csv", "path,caption\nclips/swan.mp4,собака\n".encode("cp1251"), "save it as UTF-8"),
        ("t.csv", "path,caption\nclips/swan.mp4,犬\n".encode("shift-jis"), "save it as UTF-8"),
        (
            "t.csv",
            "path,caption\nx,\u2603\n".encode()[:-2] + b"\n",
            "is not UTF-8; save it as UTF-8",
        ),
    ],
)
def test_refused_with_what_to_do(name: str, content: str | bytes, expected: str, write: Write):
    with pytest.raises(ManifestError) as error:
        load_clips(write(name, content))
    assert expected in str(error.value)


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ("path", "columns must be like path=file,caption=text"),
        ("path=a,path=b", "each at most once"),
        ("file=path", "columns must be like"),
        ("path=where", "there is no column 'where'; the columns are path, caption"),
    ],
)
def test_columns_that_are_not_there(columns: str, expected: str, write: Write):
    with pytest.raises(ManifestError, match=expected):
        load_clips(write("t.csv", "path,caption\nclips/swan.mp4,x\n"), columns=columns)


def test_a_source_that_is_not_there(write: Write, tmp_path: Path):
    write("clips.csv", "path\n")
    with pytest.raises(ManifestError, match=r"cannot read it \(No .*there is clips\.csv"):
        load_clips(tmp_path / "clip.csv")
    with pytest.raises(ManifestError, match="cannot read it"):
        load_clips(tmp_path / "gone" / "clip.csv")
    with pytest.raises(ManifestError, match=r"no file 'swann\.mp4' .* there is 'swan\.mp4'"):
        load_clips(tmp_path / "clips" / "swann.mp4")


def test_one_video_is_a_folder_of_one(write: Write, tmp_path: Path):
    write("clips/swan.txt", "a swan\n")
    assert pairs(tmp_path / SWAN) == {"swan.mp4": ("a swan",)}


def test_links_out_of_the_root_by_an_option(write: Write, tmp_path: Path):
    (tmp_path / "v").mkdir()
    (tmp_path / "v" / "far.mp4").symlink_to(tmp_path / SWAN)
    source = write("v/t.csv", "path,caption\nfar.mp4,x\n")
    with pytest.raises(ManifestError, match=r"or follow such links \(--follow-links\)"):
        load_clips(source)
    assert pairs(source, follow_links=True) == {"far.mp4": ("x",)}
    # A name out of the root is not a link out of it.
    write("v/t.csv", "path,caption\n../clips/swan.mp4,x\n")
    with pytest.raises(ManifestError, match="leaves the root"):
        load_clips(source, follow_links=True)


def test_names_are_looked_for_in_the_root_alone(write: Write, tmp_path: Path):
    (tmp_path / "v").mkdir()
    source = write("v/t.csv", "path,caption\n../clips/swann.mp4,x\nswan.mp4,y\n")
    with pytest.raises(ManifestError) as error:
        load_clips(source)
    assert "there is" not in str(error.value)


def test_objects_that_say_nothing_and_those_that_lack_a_field(write: Write):
    source = write("t.jsonl", json.dumps({"path": SWAN}) + "\n" + json.dumps({"path": DOG}))
    assert pairs(source) == {SWAN: (), DOG: ()}
    said = {"path": SWAN, "caption": "x"}
    source = write("t.jsonl", json.dumps(said) + "\n" + json.dumps({"path": DOG, "caption": None}))
    assert pairs(source) == {SWAN: ("x",), DOG: ()}
    source = write("t.jsonl", json.dumps(said) + "\n" + json.dumps({"path": DOG, "captoin": "y"}))
    with pytest.raises(ManifestError, match="line 2: it must be an object with path and either"):
        load_clips(source)
