"""Jobs with several results each: their order, and what a crash or a hang of a process costs."""

import os
import signal
import time

import pytest

from simvtp.data.processes import Lost
from simvtp.data.streams import streamed


def count(job, beat):
    """The numbers below a job's; above 100 it ends badly after two of them."""
    for number in range(job % 100):
        if job > 100 and number == 2:
            if job > 300:
                raise KeyError(f"job {job}")
            if job > 200:
                time.sleep(1000)
            os.kill(os.getpid(), signal.SIGKILL)
        yield job, number
    beat()


def counted(jobs, **settings):
    settings = {"num_processes": 2, "time_limit": 100.0} | settings
    return [(job, list(results)) for job, results in streamed(count, jobs, **settings)]


def expected(job):
    return job, [(job, number) for number in range(job)]


@pytest.mark.parametrize("num_processes", [0, 1, 3])
def test_results_come_in_order(num_processes):
    jobs = [3, 0, 40, 1, 2, 5, 0, 7]
    assert counted(jobs, num_processes=num_processes) == list(map(expected, jobs))
    assert counted([], num_processes=num_processes) == []


def test_a_crash_costs_one_job():
    first, crashed, *others = counted([4, 105, 3, 2, 6, 1], ahead=3)
    assert [first, *others] == list(map(expected, (4, 3, 2, 6, 1)))
    lost = Lost("the process that decoded it crashed (exit code -9)")
    assert crashed == (105, [(105, 0), (105, 1), lost])


def test_a_hang_costs_one_job():
    first, hung, last = counted([4, 205, 3], time_limit=1.0, num_processes=1)
    assert [first, last] == [expected(4), expected(3)]
    lost = Lost("it was not decoded any further within 1 seconds")
    assert hung == (205, [(205, 0), (205, 1), lost])


def test_an_error_is_no_crash():
    with pytest.raises(KeyError, match="job 305"):
        counted([1, 305])


def test_results_that_are_not_taken_are_passed_over():
    taken = streamed(count, [3, 4], num_processes=1, time_limit=100.0)
    assert [next(results) for _, results in taken] == [(3, 0), (4, 0)]
