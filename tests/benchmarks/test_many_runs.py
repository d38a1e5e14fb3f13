"""Many runs: what is done stays, what is missing runs, what fails is named and stops no other.

`python -m timeit` runs any statement, and ends with 1 when it raises.
"""

from benchmarks.many_runs import Run, run_all


def statement(text):
    return ["timeit", "-n1", "-r1", "-s", "import os, pathlib, time", text]


def run_of(folder, *texts):
    return Run(folder.name, folder, folder / "result", [statement(text) for text in texts])


def test_commands_run_one_after_the_other_until_the_result_is_there(tmp_path):
    words = tmp_path / "words"
    run = run_of(
        tmp_path / "a",
        f"print(open({str(words)!r}, 'x').write('one '))",
        f"open({str(words)!r}, 'a').write(os.environ['OMP_NUM_THREADS']); print('said twice')",
        f"pathlib.Path({str(tmp_path / 'a' / 'result')!r}).touch()",
    )
    assert run_all([run], processes=1, threads=3) == []
    assert words.read_text() == "one 3"
    log = (tmp_path / "a" / "log.txt").read_text()
    assert log.index("4\n") < log.index("said twice")
    # The first command would fail now: its file is there.
    assert run_all([run], processes=1, threads=3) == []
    run.result.unlink()
    assert len(run_all([run], processes=1, threads=3)) == 1


def test_what_fails_is_named_and_costs_no_other_run(tmp_path):
    def touch(name):
        return f"pathlib.Path({str(tmp_path / name)!r}).touch()"

    runs = [
        run_of(tmp_path / "bad", touch("before"), "1 / 0", touch("after")),
        run_of(tmp_path / "good", touch("good/result")),
    ]
    log = tmp_path / "bad" / "log.txt"
    assert run_all(runs, processes=1, threads=1) == [f"bad: timeit ended with 1, see {log}"]
    assert "ZeroDivisionError" in log.read_text()
    assert (tmp_path / "before").exists()
    assert not (tmp_path / "after").exists()
    assert runs[1].result.exists()


def test_as_many_run_at_the_same_time_as_asked_for(tmp_path):
    """Each of two runs waits for the other one; three that follow each other never meet."""
    waiting = "while not os.path.exists({!r}): time.sleep(0.01)"
    pair = [
        run_of(
            tmp_path / own,
            f"open({str(tmp_path / (own + '.here'))!r}, 'x').close()",
            waiting.format(str(tmp_path / f"{other}.here")),
        )
        for own, other in (("a", "b"), ("b", "a"))
    ]
    assert run_all(pair, processes=2, threads=1) == []
    diary = tmp_path / "diary"
    alone = [
        run_of(tmp_path / name, *(f"open({str(diary)!r}, 'a').write('{name}')" for _ in range(2)))
        for name in "xyz"
    ]
    assert run_all(alone, processes=1, threads=1) == []
    assert diary.read_text() == "xxyyzz"
