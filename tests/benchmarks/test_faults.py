"""The plan of the faults that are injected, and the sight of them in a table."""

import subprocess
import sys
from pathlib import Path

from benchmarks.faults import kinds
from benchmarks.kills import group_of


def test_kills_are_shared_out_and_every_kind_has_a_name():
    planned = list(kinds(50, 4))
    names = [kind.fault for kind in planned]
    assert len(set(names)) == len(names)
    # Runs lie in folders of these names.
    assert all(Path(name).name == name for name in names)
    kills = [kind for kind in planned if "workers" in kind.fault]
    assert sum(kind.times for kind in kills) == 50
    assert {kind.source for kind in kills} == {"files", "shards"}
    assert {kind.settings["data__num_workers"] for kind in kills} == {0, 1, 2}
    assert {kind.ranks for kind in planned} == {1, 2}


def test_a_group_has_its_processes_until_they_are_gone():
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(1); input()'])"
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as leader:
        assert leader.stdout is not None
        # The child prints when both are there.
        leader.stdout.read(1)
        members = group_of(leader.pid)
        assert len(members) == 2
        assert leader.pid in members
        leader.communicate(b"\n")
    assert group_of(leader.pid) == []


def test_every_fault_comes_at_least_once():
    planned = [kind for kind in kinds(6, 2) if kind.times]
    assert [kind.fault for kind in planned] == [kind.fault for kind in kinds(600, 600)]
