"""Signs of life between ranks: one that is stopped or gone ends the others, which wait for it."""

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from torch.distributed import DistError, TCPStore  # pyright: ignore[reportPrivateImportUsage]

BEAT_SECONDS = 2.0
SILENT_SECONDS = 60.0
_LEFT = b"left"


@contextmanager
def watched_ranks(rank: int, world_size: int) -> Iterator[None]:
    """End this process when another rank gives no sign of life for a minute.

    What waits for that rank waits in C++ and cannot be interrupted, so the process ends at once;
    the latest checkpoint is as it was. A rank that is busy, however long, still gives signs.

    Args:
        rank: number of this process.
        world_size: number of processes.
    """
    finished = threading.Event()
    beating = threading.Thread(target=_beat, args=(rank, world_size, finished), daemon=True)
    beating.start()
    clean = False
    try:
        yield
        clean = True
    finally:
        # Those that others still wait for must be missed.
        finished.set()
        beating.join(timeout=BEAT_SECONDS)
        if clean:
            _tell_leaving(rank)


def _beat(rank: int, world_size: int, finished: threading.Event) -> None:
    store = _store()
    others = [number for number in range(world_size) if number != rank]
    seen = dict.fromkeys(others, b"")
    heard = dict.fromkeys(others, time.monotonic())
    count, last = 0, time.monotonic()
    while not finished.wait(BEAT_SECONDS):
        count, now = count + 1, time.monotonic()
        # Whoever was stopped as well, such as all by Ctrl-Z, has heard nothing and missed nothing.
        if now - last > 3 * BEAT_SECONDS:
            heard = dict.fromkeys(others, now)
        last = now
        signs = _exchange(store, rank, count, others)
        for number in others:
            if signs.get(number, seen[number]) != seen[number] or seen[number] == _LEFT:
                seen[number], heard[number] = signs.get(number, seen[number]), now
        silent = [number for number in others if now - heard[number] > SILENT_SECONDS]
        if silent and not finished.is_set():
            _end(rank, silent)


def _exchange(store: TCPStore, rank: int, count: int, others: list[int]) -> dict[int, bytes]:
    """Give a sign and look for those of the others; none where their store cannot be reached."""
    try:
        store.set(_key(rank), str(count))
        return {number: store.get(_key(number)) for number in others if store.check([_key(number)])}
    except DistError:
        return {}


def _end(rank: int, silent: list[int]) -> None:
    names = ", ".join(map(str, silent))
    sys.stderr.write(
        f"error: rank {names} gave no sign of life for {SILENT_SECONDS:g} s, stopped or lost with "
        f"its machine, so rank {rank} ends; the latest checkpoint is as it was: go on with "
        "--resume\n"
    )
    sys.stderr.flush()
    os._exit(1)


def _tell_leaving(rank: int) -> None:
    try:
        _store().set(_key(rank), _LEFT.decode())
    except DistError:
        # Rank 0, which kept the store, has left before.
        return


def _store() -> TCPStore:
    """A connection of its own to where torchrun lets the ranks meet."""
    return TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=False,
        timeout=timedelta(seconds=SILENT_SECONDS / 4),
    )


def _key(rank: int) -> str:
    return f"simvtp/alive/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}/{rank}"
