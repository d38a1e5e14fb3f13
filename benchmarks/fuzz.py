"""Feed damaged videos to the readers: `python -m benchmarks.fuzz --clips 10000`.

Small videos of several containers are encoded, damaged at random and read as training reads them.
Each must give frames of the right shape or a ClipError, in time. The reading is done by child
processes, a few hundred clips each, so that a crash of the decoder is found, named and counted.
"""

import argparse
import json
import multiprocessing
import struct
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import torch
from av.container import OutputContainer
from rich.progress import track
from rich.table import Table

from benchmarks.measure import command_line, machine
from simvtp.data import ClipError, probe, read_clip
from simvtp.printing import Console

_TIME_LIMIT = 5.0
_CLIPS_PER_PROCESS = 250
_NUM_FRAMES = 4
_LIST = "list of files"
_ENCODINGS: dict[str, tuple[str, dict[str, str]]] = {
    "b_frames.mp4": ("libx264", {"bf": "2", "g": "12"}),
    "matroska.mkv": ("libx264", {"bf": "2", "g": "12"}),
    "transport.ts": ("libx264", {"g": "8"}),
    "vp9.webm": ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8"}),
    "mpeg4.avi": ("mpeg4", {}),
    "hevc.mp4": ("libx265", {"x265-params": "log-level=none:pools=none"}),
    "animated.gif": ("gif", {}),
    "vp8.webm": ("libvpx", {"deadline": "realtime", "cpu-used": "8"}),
    "see_through.mov": ("qtrle", {}),
    "longer_sound.ts": ("libx264", {"g": "8"}),
    "longer_sound.mkv": ("libx264", {"g": "8"}),
}
_PIXELS = {"gif": "rgb8", "qtrle": "argb"}
_TABLES = (b"stsz", b"stts", b"ctts", b"stsc", b"stco", b"elst", b"trun")


class Outcome(NamedTuple):
    """How one damaged clip was taken: `read`, `refused`, or `fault` with what was raised."""

    container: str
    damage: str
    seed: int
    kind: str
    seconds: float
    detail: str = ""


def main() -> int:
    """Run, print the table, write the JSON file; 1 when anything but frames or ClipError came."""
    parser = argparse.ArgumentParser("python -m benchmarks.fuzz", description=__doc__)
    parser.add_argument("--clips", type=int, choices=range(1, 10**7), default=10_000, metavar="N")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--files", type=Path, nargs="*", help="videos to damage, beside our own")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sources = write_sources(Path(folder))
        given = {path.name: path.read_bytes() for path in options.files or ()}
        sources |= {name: data for name, data in given.items() if data}
        outcomes = _run(sources, range(options.seed, options.seed + options.clips), Path(folder))
    rows = _by_container(outcomes)
    _print(Console(), rows)
    faults = [outcome._asdict() for outcome in outcomes if outcome.kind not in ("read", "refused")]
    for fault in faults[:10]:
        Console().print(fault)
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        report = {
            "command": command_line("benchmarks.fuzz"),
            "machine": machine(torch.device("cpu")),
            "av": av.__version__,
            "containers": rows,
            "faults": faults,
        }
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 1 if faults else 0


def write_sources(folder: Path) -> dict[str, bytes]:
    """Small sound videos of several containers, by name."""
    random = np.random.default_rng(0)
    background = random.integers(0, 256, (48, 64, 3), dtype=np.uint8)
    pictures = [np.roll(background, 3 * number, axis=1) for number in range(30)]
    sources = {}
    for name, (codec, encoder_options) in _ENCODINGS.items():
        path = folder / name
        with av.open(str(path), "w") as container:
            stream: Any = container.add_stream(codec, rate=10)
            stream.height, stream.width = pictures[0].shape[:2]
            stream.pix_fmt = _PIXELS.get(codec, "yuv420p")
            stream.options = {"threads": "1"} | encoder_options
            # All streams come before the first packet.
            has_sound = name.startswith("longer_sound")
            sound: Any = container.add_stream("aac", rate=16_000) if has_sound else None
            for picture in pictures:
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
            if sound is not None:
                _write_sound(container, sound, seconds=8)
        sources[name] = path.read_bytes()
    # The clock starts again in the middle.
    return sources | {"joined.ts": sources["transport.ts"] * 2}


def _write_sound(container: OutputContainer, stream: Any, *, seconds: int) -> None:
    for number in range(seconds * 16):
        silence = np.zeros((2, 1000), np.float32)
        frame = av.AudioFrame.from_ndarray(silence, format="fltp", layout="stereo")
        frame.sample_rate, frame.pts = 16_000, 1000 * number
        container.mux(stream.encode(frame))
    container.mux(stream.encode())


def damage(sources: dict[str, bytes], seed: int) -> tuple[str, str, bytes]:
    """Name of a video, the damage done to it, and what is left of it."""
    random = np.random.default_rng(seed)
    name = str(random.choice(sorted(sources)))
    kind = str(random.choice(sorted(_DAMAGES)))
    return name, kind, _DAMAGES[kind](sources[name], random, sources)


def read_damaged(path: Path, seed: int) -> bool:
    """Look at a file and read a clip of it; True when frames came, False when it was refused.

    Raises:
        AssertionError: what came is no clip.
    """
    try:
        probe(path, time_limit=_TIME_LIMIT)
    except ClipError as error:
        assert str(path) in str(error)  # noqa: PT017 (this is no test)
    try:
        clip = read_clip(
            path,
            num_frames=_NUM_FRAMES,
            stride=3,
            generator=torch.Generator().manual_seed(seed),
            short_side=32,
            time_limit=_TIME_LIMIT,
        )
    except ClipError as error:
        assert str(path) in str(error)  # noqa: PT017
        return False
    assert clip.dtype == torch.uint8
    assert clip.shape[:2] == (_NUM_FRAMES, 3)
    assert min(clip.shape) > 0
    return True


def _flip(data: bytes, random: np.random.Generator, _: dict[str, bytes]) -> bytes:
    # From one byte to a tenth of them.
    count = int(np.exp(random.uniform(0, np.log(max(2, len(data) // 10)))))
    flipped = np.frombuffer(data, np.uint8).copy()
    places = random.integers(0, len(data), count)
    flipped[places] ^= random.integers(1, 256, count, dtype=np.uint8)
    return flipped.tobytes()


def _flip_header(data: bytes, random: np.random.Generator, sources: dict[str, bytes]) -> bytes:
    # Where most containers say what they hold.
    size = min(len(data), 1024)
    if random.random() < 0.5:
        return _flip(data[:size], random, sources) + data[size:]
    return data[:-size] + _flip(data[-size:], random, sources)


def _truncate(data: bytes, random: np.random.Generator, _: dict[str, bytes]) -> bytes:
    return data[: int(random.integers(0, len(data)))]


def _cut_out(data: bytes, random: np.random.Generator, _: dict[str, bytes]) -> bytes:
    first, last = sorted(random.integers(0, len(data), 2).tolist())
    return data[:first] + data[last:]


def _repeat(data: bytes, random: np.random.Generator, _: dict[str, bytes]) -> bytes:
    first, last = sorted(random.integers(0, len(data), 2).tolist())
    return data[:last] + data[first:last] * int(random.integers(1, 4)) + data[last:]


def _blank(data: bytes, random: np.random.Generator, _: dict[str, bytes]) -> bytes:
    first, last = sorted(random.integers(0, len(data), 2).tolist())
    filling = bytes([int(random.choice([0, 255]))])
    return data[:first] + filling * (last - first) + data[last:]


def _splice(data: bytes, random: np.random.Generator, sources: dict[str, bytes]) -> bytes:
    other = sources[str(random.choice(sorted(sources)))]
    here, there = (int(random.integers(0, len(part))) for part in (data, other))
    return data[:here] + other[there:]


def _swap_headers(data: bytes, random: np.random.Generator, sources: dict[str, bytes]) -> bytes:
    size = int(random.integers(4, 512))
    other = sources[str(random.choice(sorted(sources)))]
    return other[:size] + data[size:]


def _break_boxes(data: bytes, random: np.random.Generator, sources: dict[str, bytes]) -> bytes:
    """Swap two boxes of an mp4 file, or give one a wrong size."""
    boxes, start = [], 0
    while start + 8 <= len(data):
        (size,) = struct.unpack_from(">I", data, start)
        if size < 8 or start + size > len(data):
            break
        boxes.append(data[start : start + size])
        start += size
    if len(boxes) < 2:
        return _flip_header(data, random, sources)
    rest = data[start:]
    first, second = random.choice(len(boxes), 2, replace=False).tolist()
    if random.random() < 0.5:
        boxes[first], boxes[second] = boxes[second], boxes[first]
    else:
        size = int(random.choice([0, 1, 7, 8, len(boxes[first]) // 2, 2**31 - 1, 2**32 - 1]))
        boxes[first] = struct.pack(">I", size) + boxes[first][4:]
    return b"".join(boxes) + rest


def _raise_counts(data: bytes, random: np.random.Generator, sources: dict[str, bytes]) -> bytes:
    """Let a table of an mp4 file claim any number of entries, each of any size."""
    if not (found := [kind for kind in _TABLES if kind in data]):
        return _flip_header(data, random, sources)
    kind = found[int(random.integers(len(found)))]
    place = data.index(kind) + 8
    words = random.choice([0, 1, 20, 2 * 10**7, 2**31, 2**32 - 1], 3)
    claimed = struct.pack(">3I", *(int(word) for word in words))
    return data[:place] + claimed + data[place + len(claimed) :]


def _list_others(data: bytes, random: np.random.Generator, sources: dict[str, bytes]) -> bytes:
    """A list that names a sound file beside it, which must not be followed."""
    name = str(random.choice(sorted(sources)))
    if random.random() < 0.5:
        return f"ffconcat version 1.0\nfile '{name}'\n".encode()
    return f"#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\n{name}\n#EXT-X-ENDLIST\n".encode()


_DAMAGES: dict[str, Callable[[bytes, np.random.Generator, dict[str, bytes]], bytes]] = {
    "bytes flipped": _flip,
    "header bytes flipped": _flip_header,
    "truncated": _truncate,
    "cut out": _cut_out,
    "repeated": _repeat,
    "blanked": _blank,
    "spliced": _splice,
    "headers swapped": _swap_headers,
    "boxes broken": _break_boxes,
    "counts raised": _raise_counts,
    _LIST: _list_others,
}


def _run(sources: dict[str, bytes], seeds: range, folder: Path) -> list[Outcome]:
    outcomes: list[Outcome] = []
    parts = [seeds[n : n + _CLIPS_PER_PROCESS] for n in range(0, len(seeds), _CLIPS_PER_PROCESS)]
    for part in track(parts, "Reading damaged clips", console=Console(stderr=True)):
        rest = part
        while len(rest):
            done = _in_child(sources, rest, folder)
            outcomes += done
            rest = rest[len(done) :]
    return outcomes


def _in_child(sources: dict[str, bytes], seeds: range, folder: Path) -> list[Outcome]:
    """Outcomes of the clips up to a crash, which is the last of them then."""
    notes = folder / "outcomes.jsonl"
    notes.unlink(missing_ok=True)
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(1, context) as pool:
            pool.submit(_read_all, sources, seeds, folder, notes).result()
    except BrokenProcessPool:
        done = _read_notes(notes)
        seed = seeds[len(done)]
        name, kind, _ = damage(sources, seed)
        return [*done, Outcome(name, kind, seed, "crash", 0.0)]
    return _read_notes(notes)


def _read_notes(notes: Path) -> list[Outcome]:
    lines = notes.read_text().splitlines() if notes.exists() else []
    return [Outcome(**json.loads(line)) for line in lines]


def _read_all(sources: dict[str, bytes], seeds: range, folder: Path, notes: Path) -> None:
    torch.set_num_threads(1)
    with notes.open("w") as file:
        for seed in seeds:
            name, kind, data = damage(sources, seed)
            path = folder / f"damaged{Path(name).suffix}"
            path.write_bytes(data)
            started, detail = time.monotonic(), ""
            try:
                result = "read" if read_damaged(path, seed) else "refused"
                if kind == _LIST and result == "read":
                    result, detail = "fault", "it led to another file"
            except Exception:  # Whatever it is, it is what this looks for.
                result, detail = "fault", traceback.format_exc()[-800:]
            seconds = time.monotonic() - started
            # Twice: once for the look, once for the clip.
            if seconds > 2 * _TIME_LIMIT + 1:
                result = "hang"
            outcome = Outcome(name, kind, seed, result, seconds, detail)
            file.write(json.dumps(outcome._asdict()) + "\n")
            file.flush()


def _by_container(outcomes: list[Outcome]) -> list[dict[str, Any]]:
    rows = []
    for name in sorted({outcome.container for outcome in outcomes}):
        mine = [outcome for outcome in outcomes if outcome.container == name]
        kinds = Counter(outcome.kind for outcome in mine)
        counts = {kind: kinds[kind] for kind in ("read", "refused", "fault", "crash", "hang")}
        slowest = max(outcome.seconds for outcome in mine)
        rows.append({"container": name, "clips": len(mine), **counts, "slowest_seconds": slowest})
    return rows


def _print(console: Console, rows: list[dict[str, Any]]) -> None:
    table = Table(title=f"{sum(row['clips'] for row in rows)} damaged clips")
    for column in rows[0]:
        table.add_column(column.replace("_", " "), justify="right")
    for row in rows:
        cells = [f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in row.values()]
        table.add_row(*cells)
    console.print(table)


if __name__ == "__main__":
    raise SystemExit(main())
