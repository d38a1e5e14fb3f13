"""The plan of the faults that are injected, and the sight of them in a table."""

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


def test_a_group_that_is_gone_has_no_process():
    assert group_of(2**30) == []


def test_every_fault_comes_at_least_once():
    planned = [kind for kind in kinds(6, 2) if kind.times]
    assert [kind.fault for kind in planned] == [kind.fault for kind in kinds(600, 600)]
