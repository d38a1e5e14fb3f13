import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simvtp.data import ClipRecord, ManifestError, load_manifest
from simvtp.data.manifests import loading as manifest
from simvtp.data.manifests import text as manifest_text

Write = Callable[..., Path]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SIMVTP_CACHE", str(tmp_path / "cache"))


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
    clips = load_manifest(path)
    assert list(clips) == [
        ClipRecord("one", tmp_path / "a.mp4", ("A dog, running.", "Two\nlines")),
        ClipRecord("two", tmp_path / "b.mp4", ("Zwölf Boxkämpfer",)),
    ]
    assert list(clips.captions()) == ["A dog, running.", "Two\nlines", "Zwölf Boxkämpfer"]
    assert clips[:1] == (clips[0],)
    assert len(clips) == 2


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
        ("m.csv", "key,size\n1,2\n", "no column of paths among ['key', 'size']; say which it is"),
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
        ("m.csv", csv_of("1,a.mp4,☃").encode() + b"\xe9\n", r"line 3: byte b'\xe9' is not UTF-8"),
        ("m.csv", "", "it lists no clip"),
        ("m.csv", csv_of(), "it lists no clip"),
        ("m.jsonl", '{"path": "a.mp4", "caption": "x"}\n{"path": \n', "line 2: it is no JSON"),
        ("m.jsonl", "[" * 100_000, "line 1: it is no JSON"),
        ("m.jsonl", json_lines({"caption": "x"}), "either caption or captions"),
        ("m.jsonl", json_lines({"path": "a.mp4", "caption": 3}), "caption must be a text, got 3"),
        ("m.jsonl", json_lines({"path": "a.mp4", "captions": []}), "list of captions is empty"),
        ("m.jsonl", json_lines({"path": ["a.mp4"], "caption": "x"}), "videoid must be"),
        ("m.jsonl", json_lines({"path": "a.mp4", "caption": "\ud800"}), "half a surrogate pair"),
        ("m.jsonl", json_lines({"path": "a\0.mp4", "caption": "x"}), "holds NUL or half"),
        ("m.json", '{"a.mp4": "x",\n "gone.mp4": "y"}', "line 2: no file 'gone.mp4'"),
        ("m.json", '[{"size": "a.mp4"}]', "line 1: it must be an object"),
        ("m.json", '{"a.mp4": "x"}\n{"b.mp4": "y"}', "line 2: it is no JSON"),
        ("m.json", '{"a.mp4": {"caption": "x"}}', "caption must be a text"),
        ("m.txt", "a.mp4 dog", "it begins with 'a.mp4 dog', which is neither a row of names"),
        ("m.doc", "a.mp4 dog", "a manifest must end in .csv, .tsv,"),
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


def test_faulty_rows_are_left_out_where_that_is_asked_for(write: Write, tmp_path: Path):
    rows = [
        "1,a.mp4,dog",
        "2,gone.mp4,cat",
        "3,../x.mp4,fox",
        "1,b.mp4,cow",
        "4,b.mp4," + "x" * 10**4,
    ]
    manifest = write("m.csv", csv_of(*rows, "5,b.mp4," + "x" * (10**4 + 1), "1,a.mp4,hen"))
    left_out: list[str] = []
    table = load_manifest(manifest, left_out=left_out)
    assert [(clip.video_id, clip.path.name) for clip in table] == [("1", "a.mp4"), ("4", "b.mp4")]
    assert table[0].captions == ("dog", "hen")
    assert [message.partition(":")[0] for message in sorted(left_out)] == [
        *("line 3", "line 4", "line 5", "line 7"),
    ]
    # Whoever asks for all rows still gets none.
    assert "4 problems" in message_of(manifest)
    # What was missing may be there the next time.
    (tmp_path / "gone.mp4").touch()
    assert len(load_manifest(manifest, left_out=[])) == 3


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (csv_of("1,a.mp4,dog", '2,b.mp4,"open', "3,c.mp4,cat"), "reading stopped"),
        (csv_of("1,gone.mp4,dog"), "no file 'gone.mp4'"),
        ("key|size\n", "no column of paths"),
        (csv_of("1,a.mp4,d\0g"), "NUL byte"),
    ],
)
def test_what_costs_more_than_rows_is_never_left_out(content: str, expected: str, write: Write):
    with pytest.raises(ManifestError, match=expected):
        load_manifest(write("m.csv", content), left_out=[])


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
    assert "cannot read it (No such file" in message_of(tmp_path / "gone.csv")
    path = write("m.csv", csv_of("1,a.mp4,x"))
    assert "is not a folder" in message_of(path, root=tmp_path / "gone")
    assert len(load_manifest(path, root=tmp_path / "gone", check_files=False)) == 1


def test_relative_manifest_gives_absolute_paths(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write("m.csv", csv_of("1,a.mp4,x"))
    monkeypatch.chdir(tmp_path)
    assert load_manifest("m.csv")[0].path == tmp_path / "a.mp4"


def test_the_checked_table_is_used_until_the_manifest_changes(write: Write, tmp_path: Path):
    path = write("m.csv", csv_of("1,a.mp4,x"))
    first = load_manifest(path)
    (tmp_path / "a.mp4").unlink()
    # Not checked again: a file that is lost later is found when it is read.
    assert load_manifest(path).file == first.file
    (tmp_path / "a.mp4").touch()
    write("m.csv", csv_of("1,a.mp4,another"))
    second = load_manifest(path)
    assert second[0].captions == ("another",)
    assert first[0].captions == ("x",)
    assert [*second.file.parent.iterdir()] == [second.file]
    assert load_manifest(path, check_files=False).file != second.file


def test_faulty_manifests_leave_nothing_behind(write: Write, tmp_path: Path):
    message_of(write("m.csv", csv_of("1,gone.mp4,x")))
    assert not [*(tmp_path / "cache" / "manifests").iterdir()]


def test_folders_that_are_links_are_followed(write: Write, tmp_path: Path):
    root = tmp_path / "root"
    root.mkdir()
    (root / "in").mkdir()
    (root / "in" / "c.mp4").touch()
    (root / "same").symlink_to(root / "in")
    (root / "out").symlink_to(tmp_path / "sub")
    good = write("good.csv", csv_of("1,same/c.mp4,x"))
    assert load_manifest(good, root=root)[0].path == root / "same" / "c.mp4"
    assert "link out of the root" in message_of(write("m.csv", csv_of("1,out/c.mp4,x")), root=root)


@pytest.mark.parametrize("block", [1, 3, 1 << 24])
def test_bytes_that_are_no_text_are_found_in_any_block(
    block: int, write: Write, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(manifest_text, "_BLOCK_BYTES", block)
    assert len(load_manifest(write("m.csv", csv_of("1,a.mp4,Zwölf ☃")))) == 1
    broken = csv_of("1,a.mp4,☃").encode() + b"2,b.mp4,\xe2\x98"
    assert r"line 3: byte b'\xe2'" in message_of(write("m.csv", broken))
    assert "line 2: it holds a NUL" in message_of(write("m.csv", csv_of("1,a.mp4,☃\0")))


@given(
    rows=st.lists(st.tuples(st.integers(0, 5), st.text("ab", min_size=1)), min_size=1),
    same_hash=st.booleans(),
)
def test_rows_of_a_clip_are_merged_in_order(rows: list[tuple[int, str]], same_hash: bool):
    expected: dict[str, list[str]] = {}
    for number, caption in rows:
        expected.setdefault(str(number), []).append(caption)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIMVTP_CACHE", folder)
        if same_hash:
            patch.setattr(manifest, "hash", lambda video_id: 7, raising=False)
        path = Path(folder, "m.csv")
        path.write_text(csv_of(*(f"{number},{number}.mp4,{said}" for number, said in rows)))
        table = load_manifest(path, check_files=False)
        assert {clip.video_id: list(clip.captions) for clip in table} == expected
        assert [clip.video_id for clip in table] == list(expected)


def test_a_huge_caption_is_one_faulty_row(write: Write):
    rows = csv_of("1,a.mp4,x").encode() + b"2,b.mp4," + b"y" * 10_000_000 + b"\n3,a.mp4,z\n"
    assert "line 3: field larger than field limit" in message_of(write("m.csv", rows))
    lines = json_lines({"path": "a.mp4", "caption": "y" * 10_000_000})
    assert "has 10000000 characters, at most 10000" in message_of(write("m.jsonl", lines))
