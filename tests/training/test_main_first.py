"""Rank 0 goes first: the others wait for it longer than torch would, but not for what failed."""

import time
from datetime import timedelta
from functools import partial

import pytest
from torch import distributed

from simvtp.training import Agreement, MainFailedError, is_main, main_first, require_same
from testing.ranks import run_ranks

TIMEOUT_SECONDS = 3


def on_rank(function, folder, rank):
    return function(folder)


def results_of(function, folder):
    timeout = timedelta(seconds=TIMEOUT_SECONDS)
    return run_ranks(partial(on_rank, function, folder), folder, timeout=timeout)


def slow_main(folder):
    with main_first():
        if is_main():
            time.sleep(TIMEOUT_SECONDS + 2)
            (folder / "made").touch()
        found = (folder / "made").exists()
    # The evaluation of rank 0 is waited for alike.
    agreement = Agreement()
    if is_main():
        time.sleep(TIMEOUT_SECONDS + 2)
    return [found, agreement.gather(0 if is_main() else 1)]


@pytest.mark.slow
def test_others_wait_for_rank_0_beyond_the_timeout_of_the_group(tmp_path):
    assert results_of(slow_main, tmp_path) == [[True, [0, 1]]] * 2


def failing_main(folder):
    try:
        with main_first():
            if is_main():
                raise ValueError("a faulty manifest")
            (folder / "went on").touch()
    except (ValueError, MainFailedError) as error:
        return [type(error).__name__, str(error)]
    return []


@pytest.mark.slow
def test_others_end_in_one_line_when_rank_0_fails(tmp_path):
    mine, theirs = results_of(failing_main, tmp_path)
    assert mine == ["ValueError", "a faulty manifest"]
    assert theirs == ["MainFailedError", "rank 0 could not go on; see its message"]
    assert not (tmp_path / "went on").exists()


def started_unlike(folder):
    require_same({"epochs": 3, "clips": "as on all"})
    try:
        require_same({"epochs": 3, "seed": distributed.get_rank()})
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.slow
def test_ranks_that_differ_are_refused_on_all_of_them(tmp_path):
    said = results_of(started_unlike, tmp_path)
    assert said[0] == said[1]
    assert "seed is 1 on rank 1 and 0 on rank 0" in said[0]


def test_alone_nothing_is_waited_for():
    with pytest.raises(ValueError, match="mine"), main_first():
        raise ValueError("mine")
