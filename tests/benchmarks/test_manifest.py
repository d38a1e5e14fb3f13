from benchmarks.manifest import open_once, write_manifest
from simvtp.data import load_clips


def test_the_manifest_that_is_measured_is_whole(tmp_path, monkeypatch):
    monkeypatch.setenv("SIMVTP_CACHE", str(tmp_path / "cache"))
    write_manifest(tmp_path, 5003)
    table = load_clips(tmp_path / "clips.csv", root=tmp_path)
    assert len(table) == 5003
    assert table[5002].path == tmp_path / "clips" / "00001" / "000005002.mp4"
    figures = open_once(tmp_path, num_workers=0)
    assert figures["rows"] == 5003
    assert figures["memory_mb"] > 100
    assert 0 < figures["open_seconds"] < 60
