"""What the rows of a manifest cost a process that reads them."""

import subprocess
import sys
from pathlib import Path

import pytest

from simvtp.data import load_manifest

_MEMORY_CODE = """
import sys
from simvtp.data import load_manifest

def anonymous():
    lines = open("/proc/self/smaps_rollup").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss_Anon"))

load_manifest(sys.argv[1], check_files=False)
before = anonymous()
table = load_manifest(sys.argv[2], check_files=False)
total = sum(len(clip.captions[0]) for clip in table)
print(len(table), total, anonymous() - before)
"""


@pytest.mark.slow
def test_rows_cost_no_memory_of_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SIMVTP_CACHE", str(tmp_path / "cache"))
    count, caption = 50_000, "a person walks along the beach while waves roll in behind"
    rows, small = tmp_path / "m.csv", tmp_path / "small.csv"
    header = "videoid,path,caption\n"
    rows.write_text(header + "".join(f"{n},{n}.mp4,{caption}\n" for n in range(count)))
    small.write_text(f"{header}1,a.mp4,x\n")
    load_manifest(rows, check_files=False)
    command = [sys.executable, "-c", _MEMORY_CODE, str(small), str(rows)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    length, total, kilobytes = map(int, done.stdout.split())
    assert (length, total) == (count, count * len(caption))
    # As objects of Python they would take at least 400 bytes each: 20 MB.
    assert kilobytes < 2_000
