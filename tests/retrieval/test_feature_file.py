"""Files of features: the same bytes however they came about, and nothing lost or half done."""

import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simvtp.retrieval.feature_file import FeatureFile, FeatureFileError
from simvtp.retrieval.feature_tables import ROWS_PER_GROUP, table_of, text_schema, video_schema

WIDTH = 3
VIDEO, TEXT = ".parquet", ".text.parquet"
SETTINGS = {"version": "1", "config": {"width": WIDTH}, "clips": "a"}
TABLES = {VIDEO: video_schema(WIDTH), TEXT: text_schema(WIDTH)}


def features_of(numbers: range) -> np.ndarray:
    values = np.random.default_rng(0).standard_normal((numbers.stop, WIDTH), np.float32)
    return values[numbers.start :]


def videos(numbers: range) -> pa.Table:
    columns = [
        [f"id {n}" for n in numbers],
        [f"/clips/{n}.mp4" for n in numbers],
        [n % 2 for n in numbers],
        [n / 7 for n in numbers],
    ]
    return table_of(TABLES[VIDEO], columns, features_of(numbers))


def texts(numbers: range) -> pa.Table:
    columns = [[f"{kind} {n}" for n in numbers] for kind in ("id", "name", "words é")]
    return table_of(TABLES[TEXT], columns, features_of(numbers))


def missing(number: int) -> dict[str, object]:
    return {"index": number, "name": f"clip {number}", "reason": "no vidéo"}


def write(file: Path, cuts: list[int], *, total: int = 30, overwrite: bool = False) -> None:
    """Write, or go on with, clips of which every tenth is missing, in parts that end at `cuts`."""
    made = FeatureFile(file, SETTINGS, tables=TABLES, overwrite=overwrite)
    for ending, rows in ((VIDEO, videos), (TEXT, texts)):
        for end in [*cuts, total]:
            if end > (start := made.next_clip(ending)):
                bad = [missing(n) for n in range(start, end) if n % 10 == 0 and ending == VIDEO]
                made.save(ending, [rows(range(start, end))], next_clip=end, unreadable=bad)
    made.finish()
    made.close()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.*")}


def test_everything_is_there(tmp_path):
    write(tmp_path / "a.parquet", [4, 11])
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("a.parquet", "a.quarantine.jsonl", "a.text.parquet")
    ]
    table = pq.read_table(tmp_path / "a.parquet", page_checksum_verification=True)
    assert table.column("video_id").to_pylist() == [f"id {n}" for n in range(30)]
    assert table.column("name").to_pylist() == [f"/clips/{n}.mp4" for n in range(30)]
    assert table.column("view").to_pylist() == [n % 2 for n in range(30)]
    assert table.column("start").to_pylist() == [n / 7 for n in range(30)]
    assert table.schema.field("video_embed").type == pa.list_(pa.float32(), WIDTH)
    assert np.array_equal(np.stack(table.column("video_embed").to_numpy()), features_of(range(30)))
    captions = pq.read_table(tmp_path / "a.text.parquet")
    assert captions.column("caption").to_pylist() == [f"words é {n}" for n in range(30)]
    assert np.array_equal(np.stack(captions["text_embed"].to_numpy()), features_of(range(30)))
    about = pq.read_schema(tmp_path / "a.parquet").metadata
    kept = {name.decode(): value.decode() for name, value in about.items()}
    assert kept["simvtp.version"] == "1"
    assert json.loads(kept["simvtp.config"]) == {"width": WIDTH}
    assert kept["simvtp.unreadable"] == "3"
    lines = (tmp_path / "a.quarantine.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [missing(n) for n in (0, 10, 20)]


@settings(max_examples=8)
@given(cuts=st.sets(st.integers(1, 2 * ROWS_PER_GROUP + 800), max_size=6))
def test_parts_leave_no_trace(tmp_path_factory, cuts):
    total = 2 * ROWS_PER_GROUP + 900
    once, often = (tmp_path_factory.mktemp(name) for name in ("once", "often"))
    write(once / "a.parquet", [], total=total)
    write(often / "a.parquet", sorted(cuts), total=total)
    assert contents(once) == contents(often)
    groups = pq.ParquetFile(once / "a.parquet").metadata
    sizes = [groups.row_group(number).num_rows for number in range(groups.num_row_groups)]
    assert sizes == [ROWS_PER_GROUP, ROWS_PER_GROUP, 900]


TOUCHING = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.listdir", "os.scandir")


def exit_code(act: Callable[[], object]) -> int:
    """How a copy of this process ends that does something."""
    child = os.fork()
    if child == 0:
        try:
            act()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def write_until_killed(file: Path, number: int, *, overwrite: bool) -> None:
    """Write the file, and be killed before its folder is touched for the n-th time."""
    touched = 0

    def count(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal touched
        if event in TOUCHING and str(file.parent) in str(arguments[0]):
            touched += 1
            if touched == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    write(file, [4, 11], overwrite=overwrite)


def outputs(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def kill_everywhere(folder: Path, *, overwrite: bool, every: int) -> None:
    """Kill at every so many places, then go on with other parts; needs one thread."""
    assert exit_code(partial(write, folder / "whole/a.parquet", [4, 11])) == 0
    expected = outputs(folder / "whole")
    for number in range(1, 1000, every):
        place = folder / str(number)
        file = place / "a.parquet"
        if overwrite:
            assert exit_code(partial(write, file, [], total=7)) == 0
        else:
            place.mkdir()
        before = outputs(place)
        end = exit_code(partial(write_until_killed, file, number, overwrite=overwrite))
        for name, data in outputs(place).items():
            assert data in (before.get(name), expected[name]), f"{name} is half done"
        if outputs(place).get(file.name) == expected[file.name]:
            assert outputs(place) == expected, "the file has its name before the others"
        finished = file.exists() and not (place / "a.parquet.partial").exists()
        if overwrite or not finished:
            go_on = partial(write, file, [4, 11, 20], overwrite=overwrite)
            assert exit_code(go_on) == 0
        assert outputs(place) == expected, f"killed at {number}"
        if end == 0:
            print(number - 1)
            return
        assert end == -signal.SIGKILL
        assert overwrite or finished or before == {}


@pytest.mark.parametrize("overwrite", [False, True])
def test_killed_before_any_touch_of_the_disk(tmp_path, overwrite):
    name = f"{__name__.rpartition('.')[2]}"
    every = 1 if "SIMVTP_ALL_FAULTS" in os.environ else 3
    code = f"from tests.retrieval.{name} import *; kill_everywhere(Path({str(tmp_path)!r}), "
    done = subprocess.run(
        [sys.executable, "-c", f"{code}overwrite={overwrite}, every={every})"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 30


def open_again(file: Path, **changed: object) -> FeatureFile:
    return FeatureFile(file, {**SETTINGS, **changed}, tables=TABLES)


def test_goes_on_where_it_was(tmp_path):
    file = tmp_path / "new/a.parquet"
    made = open_again(file)
    assert (made.next_clip(VIDEO), made.num_rows(VIDEO), made.num_unreadable) == (0, 0, 0)
    made.save(VIDEO, [videos(range(2)), videos(range(2, 5))], next_clip=6, unreadable=[missing(5)])
    made.save(VIDEO, [], next_clip=7, unreadable=[missing(6)])
    made.close()
    made = open_again(file)
    assert (made.next_clip(VIDEO), made.num_rows(VIDEO), made.num_unreadable) == (7, 5, 2)
    assert made.next_clip(TEXT) == 0
    assert list(made.unreadable()) == [missing(5), missing(6)]
    made.discard()
    made.close()
    assert list(file.parent.iterdir()) == []


def test_what_changed_is_named(tmp_path):
    file = tmp_path / "a.parquet"
    open_again(file).close()
    message = "clips was a and is now b.*remove .*a.parquet.partial"
    with pytest.raises(FeatureFileError, match=message):
        open_again(file, clips="b")
    with pytest.raises(FeatureFileError, match="text was None and is now True"):
        open_again(file, text=True)
    open_again(file).close()


def test_two_at_once_are_refused(tmp_path):
    made = open_again(tmp_path / "a.parquet")
    with pytest.raises(FeatureFileError, match="another process is writing it"):
        open_again(tmp_path / "a.parquet")
    open_again(tmp_path / "b.parquet").close()
    made.close()
    open_again(tmp_path / "a.parquet").close()


@pytest.mark.parametrize("name", ["a.parquet", "a.text.parquet", "a.quarantine.jsonl"])
def test_files_that_are_there_are_kept(tmp_path, name):
    (tmp_path / name).write_text("precious")
    with pytest.raises(FeatureFileError, match=f"{name}: it is there already; choose another name"):
        open_again(tmp_path / "a.parquet")
    assert [path.name for path in tmp_path.iterdir()] == [name]
    made = FeatureFile(tmp_path / "a.parquet", SETTINGS, tables=TABLES, overwrite=True)
    made.close()
    assert (tmp_path / name).read_text() == "precious"
    with pytest.raises(FeatureFileError, match=r"was begun to replace it; go on with --overwrite"):
        open_again(tmp_path / "a.parquet")
    write(tmp_path / "a.parquet", [], overwrite=True)
    assert b"precious" not in outputs(tmp_path).values()


def test_what_a_new_file_lacks_is_not_left_from_the_old_one(tmp_path):
    file = tmp_path / "a.parquet"
    write(file, [])
    made = FeatureFile(file, SETTINGS, tables={VIDEO: TABLES[VIDEO]}, overwrite=True)
    made.save(VIDEO, [videos(range(3))], next_clip=3)
    made.finish()
    made.close()
    assert list(outputs(tmp_path)) == ["a.parquet"]


def test_names_that_cannot_be_written_to(tmp_path):
    with pytest.raises(FeatureFileError, match=r"must end in \.parquet"):
        open_again(tmp_path / "a.csv")
    (tmp_path / "a.parquet").mkdir()
    with pytest.raises(FeatureFileError, match="it is a folder"):
        FeatureFile(tmp_path / "a.parquet", SETTINGS, tables=TABLES, overwrite=True)
    with pytest.raises(NotADirectoryError):
        open_again(Path(__file__) / "a.parquet")


@pytest.mark.parametrize("place", ["end", "middle"])
def test_a_damaged_part_is_named(tmp_path, place):
    made = open_again(tmp_path / "a.parquet")
    made.save(VIDEO, [videos(range(100))], next_clip=100)
    made.close()
    (part,) = (tmp_path / "a.parquet.partial").glob("*.parquet")
    data = bytearray(part.read_bytes())
    if place == "middle":
        data[data.index(features_of(range(100)).tobytes()) + 500] ^= 1
    part.write_bytes(data if place == "middle" else data[:-9])

    def finish() -> None:
        again = open_again(tmp_path / "a.parquet")
        try:
            again.finish()
        finally:
            again.close()

    message = f"{part.name}: damaged .*remove .*a.parquet.partial and start anew"
    with pytest.raises(FeatureFileError, match=message):
        finish()
    assert not (tmp_path / "a.parquet").exists()
