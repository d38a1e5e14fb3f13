"""A manifest that is written reads as the same clips."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simvtp.data import load_clips, load_manifest
from simvtp.data.manifests.checks import text_fault
from simvtp.data.manifests.writing import write_manifest
from simvtp.pipelines.prepare import main

TEXTS = st.text(max_size=8).filter(lambda text: text_fault("x", text, advice="") is None)


@pytest.fixture(autouse=True, scope="module")
def own_cache(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIMVTP_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@given(
    said=st.lists(st.lists(TEXTS, max_size=2), min_size=1, max_size=4),
    ending=st.sampled_from([".csv", ".jsonl"]),
    is_beside=st.booleans(),
)
def test_what_is_written_reads_as_the_same(
    said: list[list[str]], ending: str, is_beside: bool, tmp_path_factory: pytest.TempPathFactory
):
    folder = tmp_path_factory.mktemp("v")
    (folder / "clips").mkdir()
    rows = [
        {"videoid": f"id {n}", "path": f"{n}, \u2028.mp4", "captions": each or None}
        for n, each in enumerate(said)
    ]
    source = folder / "clips" / "own.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    clips = load_manifest(source, check_files=False)
    file = folder / ("" if is_beside else "out") / f"plain{ending}"
    if ending == ".csv" and any(said) and not all(said):
        with pytest.raises(ValueError, match=r"for which a \.csv has no place; name a \.jsonl"):
            write_manifest(file, clips)
        return
    root = write_manifest(file, clips)
    assert root == (None if is_beside else folder / "clips")
    assert list(load_manifest(file, root=root, check_files=False)) == list(clips)
    with pytest.raises(ValueError, match="there already"):
        write_manifest(file, clips)


def test_the_command_writes_what_it_understood(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", "500")
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).touch()
    table = tmp_path / "own.csv"
    table.write_bytes('Text;Datei\r\nein süßer Hund;a.mp4\r\n"x; y";b.mp4\r\n'.encode("cp1252"))
    out = tmp_path / "plain.csv"
    asked = ["--data", str(table), "--columns", "path=Datei", "--manifest", str(out)]
    assert main(asked) == 0
    told = capsys.readouterr().out
    understood = "path from column 'Datei', caption from 'Text'; separator ';'; cp1252, since it is"
    assert f"data: 2 clips, 2 captions; {understood}" in told
    assert f"read it with --data {out}\n" in told
    written = "videoid,path,caption\r\na.mp4,a.mp4,ein süßer Hund\r\nb.mp4,b.mp4,x; y\r\n"
    assert out.read_bytes().decode() == written
    assert list(load_clips(out)) == list(load_clips(table, columns="path=Datei"))
    assert main(asked) == 2
    assert "it is there already" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([*asked, "--check"])
