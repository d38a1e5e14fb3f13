import json
from collections.abc import Callable
from pathlib import Path

import pytest

from simvtp.data import ClipRecord, ManifestError, load_manifest

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a manifest into a folder that holds a.mp4, b.mp4 and sub/c.mp4."""
    (tmp_path / "sub").mkdir()
    for name in ("a.mp4", "b.mp4", "sub/c.mp4"):
        (tmp_path / name).touch()

    def write(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def json_lines(*rows: object) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def message_of(path: Path, **arguments: object) -> str:
    with pytest.raises(ManifestError) as error:
        load_manifest(path, **arguments)  # pyright: ignore[reportArgumentType]
    assert str(path) in str(error.value)
    return str(error.value)


def test_csv_merges_rows_of_the_same_clip(write: Write, tmp_path: Path):
    path = write(
        "clips.csv",
        "\ufeffvideoid,path,caption,source\r\n"
        'one,a.mp4,"A dog, running.",x\r\n'
        "\r\n"
        "two,sub/../b.mp4,Zwölf Boxkämpfer,x\r\n"
        'one,./a.mp4,"Two\nlines",x\r\n',
    )
    manifest = load_manifest(path)
    assert list(manifest) == [
        ClipRecord("one", tmp_path / "a.mp4", ("A dog, running.", "Two\nlines")),
        ClipRecord("two", tmp_path / "b.mp4", ("Zwölf Boxkämpfer",)),
    ]
    assert list(manifest.captions()) == ["A dog, running.", "Two\nlines", "Zwölf Boxkämpfer"]
    assert manifest[:1] == (manifest[0],)
    assert len(manifest) == 2


def test_webvid_columns_with_and_without_page_folder(write: Write, tmp_path: Path):
    root = tmp_path / "videos"
    (root / "p1").mkdir(parents=True)
    (root / "p1" / "7.mp4").touch()
    (root / "8.mp4").touch()
    path = write(
        "webvid.csv",
        "videoid,contentUrl,duration,page_dir,name\n"
        "7,https://x/7.mp4,PT00H00M05S,p1,A sea\n8,https://x/8.mp4,PT00H00M05S,p2,A sky\n",
    )
    assert [record.path for record in load_manifest(path, root=root)] == [
        root / "p1" / "7.mp4",
        root / "8.mp4",
    ]
    assert load_manifest(path, root=root, check_files=False)[1].path == root / "p2" / "8.mp4"


def test_json_lines_and_the_papers_json(write: Write, tmp_path: Path):
    lines = write(
        "clips.jsonl",
        json_lines(
            {"path": "a.mp4", "caption": "dog\u2028cat"},
            {"path": "b.mp4", "captions": ["one", "two"], "videoid": 12},
            {"path": "a.mp4", "caption": "more"},
        ),
    )
    assert list(load_manifest(lines)) == [
        ClipRecord("a.mp4", tmp_path / "a.mp4", ("dog\u2028cat", "more")),
        ClipRecord("12", tmp_path / "b.mp4", ("one", "two")),
    ]
    raw = write("raw.jsonl", '{"path": "a.mp4", "caption": "dog\u2028cat"}\n')
    assert load_manifest(raw)[0].captions == ("dog\u2028cat",)
    paper = write("clips.json", '{"a.mp4": "x", "b.mp4": ["y", "z"],\n"a.mp4": "repeated"}')
    assert [record.captions for record in load_manifest(paper)] == [("x", "repeated"), ("y", "z")]


def csv_of(*rows: str) -> str:
    return "\n".join(["videoid,path,caption", *rows]) + "\n"


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("m.csv", "videoid,path\n1,a.mp4\n", "line 1: the header must name each of videoid"),
        ("m.csv", "videoid;path;caption\n", "got 'videoid;path;caption'"),
        ("m.csv", csv_of("1,a.mp4,dog, cat"), "line 2: it has 4 cells, the header has 3"),
        ("m.csv", csv_of("1,a.mp4"), "line 2: it has 2 cells"),
        ("m.csv", csv_of("1,a.mp4,dog", '2,b.mp4,"open'), "check that every quote is closed"),
        ("m.csv", csv_of("1,,dog"), "line 2: path must be a non-empty text"),
        ("m.csv", csv_of(",a.mp4,dog"), "line 2: videoid must be a non-empty text, got ''"),
        ("m.csv", csv_of("1,a.mp4,  "), "line 2: caption '  ' is empty"),
        ("m.csv", csv_of("1,a.mp4," + "x" * 10_001), "has 10001 characters, at most 10000"),
        ("m.csv", csv_of("1,gone.mp4,dog"), "line 2: no file 'gone.mp4' under the root"),
        ("m.csv", csv_of("1,sub,dog"), "no file 'sub'"),
        ("m.csv", csv_of("1,../m.mp4,dog"), "path '../m.mp4' leaves the root"),
        ("m.csv", csv_of("1,/etc/passwd,dog"), "path '/etc/passwd' leaves the root"),
        ("m.csv", csv_of("1,.,dog"), "path '.' leaves the root"),
        ("m.csv", csv_of("1,a.mp4,dog", '2,b.mp4,"x', 'y"', "1,b.mp4,cat"), "line 5: videoid '1'"),
        ("m.csv", csv_of("1,a.mp4,d\0g"), "line 2: it holds a NUL byte"),
        ("m.csv", csv_of("1,a.mp4,caf").encode() + b"\xe9\n", r"line 3: byte b'\xe9' is not UTF-8"),
        ("m.csv", "", "it lists no clip"),
        ("m.csv", csv_of(), "it lists no clip"),
        ("m.jsonl", '{"path": "a.mp4", "caption": "x"}\n{"path": \n', "line 2: it is no JSON"),
        ("m.jsonl", "[" * 100_000, "line 1: it is no JSON"),
        ("m.jsonl", json_lines({"path": "a.mp4"}), "either caption or captions"),
        ("m.jsonl", json_lines({"path": "a.mp4", "caption": 3}), "caption must be a text, got 3"),
        ("m.jsonl", json_lines({"path": "a.mp4", "captions": []}), "list of captions is empty"),
        ("m.jsonl", json_lines({"path": ["a.mp4"], "caption": "x"}), "videoid must be"),
        ("m.jsonl", json_lines({"path": "a.mp4", "caption": "\ud800"}), "half a surrogate pair"),
        ("m.jsonl", json_lines({"path": "a\0.mp4", "caption": "x"}), "path must be a non-empty"),
        ("m.json", '{"a.mp4": "x",\n "gone.mp4": "y"}', "line 2: no file 'gone.mp4'"),
        ("m.json", '[{"path": "a.mp4"}]', "line 1: it must be an object"),
        ("m.json", '{"a.mp4": "x"}\n{"b.mp4": "y"}', "line 2: it is no JSON"),
        ("m.json", '{"a.mp4": {"caption": "x"}}', "caption must be a text"),
        ("m.txt", "a.mp4 dog", "a manifest must end in .csv, .jsonl, .json"),
    ],
)
def test_faults_are_named(name: str, content: str | bytes, expected: str, write: Write):
    assert expected in message_of(write(name, content))


def test_first_problems_are_listed_and_all_are_counted(write: Write):
    message = message_of(write("m.csv", csv_of(*(f"{n},gone{n}.mp4,x" for n in range(8)))))
    assert "8 problems" in message
    assert message.count("line ") == 5
    assert "... and 3 more" in message
    assert "fix the path or set root" in message


def test_links_out_of_the_root_are_refused(write: Write, tmp_path: Path):
    root = tmp_path / "sub"
    (root / "out.mp4").symlink_to(tmp_path / "a.mp4")
    (root / "inside.mp4").symlink_to(root / "c.mp4")
    (root / "loop.mp4").symlink_to(root / "loop.mp4")
    assert "is a link out of the root" in message_of(
        write("m.csv", csv_of("1,out.mp4,x")), root=root
    )
    assert "no file 'loop.mp4'" in message_of(write("m.csv", csv_of("1,loop.mp4,x")), root=root)
    assert len(load_manifest(write("m.csv", csv_of("1,inside.mp4,x")), root=root)) == 1


def test_missing_manifest_and_root(tmp_path: Path, write: Write):
    assert "cannot read the manifest" in message_of(tmp_path / "gone.csv")
    path = write("m.csv", csv_of("1,a.mp4,x"))
    assert "is not a folder" in message_of(path, root=tmp_path / "gone")
    assert len(load_manifest(path, root=tmp_path / "gone", check_files=False)) == 1


def test_relative_manifest_gives_absolute_paths(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write("m.csv", csv_of("1,a.mp4,x"))
    monkeypatch.chdir(tmp_path)
    assert load_manifest("m.csv")[0].path == tmp_path / "a.mp4"
