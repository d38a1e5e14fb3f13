"""The list of bad clips: each once, whoever adds it, and at the same price for every one."""

import json
import multiprocessing
from pathlib import Path

from simvtp.data import ClipRecord, Quarantine
from simvtp.data.datasets import quarantine as quarantine_module

NUM_WORKERS, NUM_CLIPS = 4, 60


def add_all(path: Path, numbers: range, barrier=None) -> None:
    quarantine = Quarantine(path, max_bad_share=1.0)
    for number in numbers:
        if barrier is not None:
            barrier.wait()
        record = ClipRecord(f"id{number}", f"{number}.mp4", ("words",))
        quarantine.add(record, reason="r" * 200, epoch=0, unreadable=True)


def listed(path: Path) -> list[str]:
    return [json.loads(line)["path"] for line in path.read_text().splitlines()]


def test_workers_that_meet_a_bad_clip_at_once_list_it_once(tmp_path: Path):
    path = tmp_path / "quarantine.jsonl"
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(NUM_WORKERS)
    arguments = (path, range(NUM_CLIPS), barrier)
    workers = [context.Process(target=add_all, args=arguments) for _ in range(NUM_WORKERS)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert sorted(listed(path)) == sorted(f"{number}.mp4" for number in range(NUM_CLIPS))


def test_a_long_list_is_not_read_again_for_every_clip(tmp_path: Path, monkeypatch):
    path = tmp_path / "quarantine.jsonl"
    add_all(path, range(50))
    read = []
    loads = json.loads
    monkeypatch.setattr(quarantine_module.json, "loads", lambda text: read.append(0) or loads(text))
    add_all(path, range(50, 250))
    # Those that were there, for two reasons, and each of the new ones.
    assert len(read) <= 2 * 50 + 200
    monkeypatch.undo()
    assert listed(path) == [f"{number}.mp4" for number in range(250)]


def test_a_line_cut_by_a_full_disk_costs_no_other(tmp_path: Path):
    path = tmp_path / "quarantine.jsonl"
    path.write_text('{"path": "so')
    add_all(path, range(2))
    add_all(path, range(3))
    broken, *rest = path.read_text().splitlines()
    assert broken == '{"path": "so'
    assert [json.loads(line)["path"] for line in rest] == ["0.mp4", "1.mp4", "2.mp4"]
