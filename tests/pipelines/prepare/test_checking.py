"""Clips checked: figures that can be derived, and bad clips that cost no other."""

import json
import multiprocessing
import os
import shutil
import statistics
import threading
import time

import pytest

from simvtp.data import ClipRecord, load_manifest
from simvtp.data.preparing.checks import check_clips
from testing.pipelines.prepared_clips import run


def test_check_reports_figures_that_can_be_derived(with_bad_clips, tmp_path, capsys):
    file = tmp_path / "figures.json"
    assert run("--data", with_bad_clips, "--check", "--json", file) == 1
    figures = json.loads(file.read_text())
    folder = with_bad_clips.parent
    good = [0, 2, 3, 5, 6, 2]
    seconds = [(12 + 3 * number) / 10 for number in good]
    assert (figures["clips"], figures["decoded"], figures["captions"]) == (8, 6, 8)
    assert figures["seconds"] == pytest.approx(
        {
            "min": min(seconds),
            "median": statistics.median(seconds),
            "max": max(seconds),
            "total": sum(seconds),
        }
    )
    assert figures["resolutions"] == {"128x32": 6}
    assert figures["frame_rates"] == {"10": 6}
    assert figures["codecs"] == {"h264": 6}
    assert figures["caption_words"] == {"min": 3, "median": 3, "max": 3, "total": 24}
    assert figures["identical_clips"] == [[str(folder / "2.mp4"), str(folder / "copy.mp4")]]
    assert figures["identical_captions"] == {"words of 2": 2}
    assert [clip["video_id"] for clip in figures["bad"]] == ["id1", "id4"]
    printed = capsys.readouterr().out
    assert "6 of 8" in printed
    assert "128x32 (6)" in printed


@pytest.mark.slow
def test_a_clip_that_hangs_is_given_up_and_costs_no_other(manifest, tmp_path):
    os.mkfifo(tmp_path / "fifo.mp4")
    good = load_manifest(manifest)
    records = [good[0], ClipRecord("hangs", tmp_path / "fifo.mp4", ("x",)), good[1], good[2]]
    results = list(check_clips(records, num_processes=1, time_limit=3))
    assert [clip.reason for clip in results] == ["", "it was not decoded within 3 seconds", "", ""]
    assert [clip.record for clip in results] == records


def test_a_decoder_that_crashes_costs_no_other_clip(manifest, tmp_path):
    fifo = tmp_path / "fifo.mp4"
    os.mkfifo(fifo)
    good = load_manifest(manifest)
    records = [good[0], ClipRecord("crashes", fifo, ("x",)), good[1]]

    def kill_the_reader() -> None:
        # A pipe can be opened in this way only while another process waits for its bytes.
        for _ in range(10_000):
            try:
                descriptor = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
            except OSError:
                time.sleep(0.01)
                continue
            (worker,) = multiprocessing.active_children()
            worker.kill()
            worker.join()
            os.close(descriptor)
            return

    killer = threading.Thread(target=kill_the_reader)
    killer.start()
    results = list(check_clips(records, num_processes=1, time_limit=100))
    killer.join()
    assert [bool(clip.reason) for clip in results] == [False, True, False]
    assert "crashed (exit code -9)" in results[1].reason


def test_check_finds_a_shard_that_is_no_longer_what_was_written(prepared, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(prepared, copy)
    data = bytearray((copy / "000001.tar").read_bytes())
    # A caption: every clip still decodes.
    place = data.index(b"clip number")
    data[place] ^= 1
    (copy / "000001.tar").write_bytes(data)
    assert run("--data", copy, "--check") == 1
    assert f"bad: {copy}/000001.tar: the whole shard has sha256" in capsys.readouterr().out
