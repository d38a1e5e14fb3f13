"""How fast clips are decoded and cropped: `python -m benchmarks.loader`.

The library's samples against the loop that anybody would write with PyAV, over the same files and
the same starts, in one process with one thread, in turn; from tar shards of the same clips too,
when there are some, and by torchcodec where it is installed; and how many cores feed a step.
"""

import argparse
import json
import sys
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import av
import torch
from av.error import FFmpegError
from rich.table import Table
from torch import Tensor

from benchmarks.measure import CLOCKS, Spread, command_line, interleave, machine, timed
from simvtp.data import ClipError, ClipRecord, ClipTable, MultiScaleCrop, ShardCache, load_clips
from simvtp.data.corpus.rendering import render_corpus
from simvtp.data.video.clips import frame_indices, read_clip
from simvtp.printing import Console
from simvtp.seeding import derive_generator

BARE, DECODE, READ, SAMPLE = "bare loop", "bare loop, no RGB", "read_clip", "read_clip and crop"
SHARDS = "read_clip and crop, from shards"
TORCHCODEC = "torchcodec"
_STRIDE = 4


def main() -> int:
    """Measure, print the table and write the JSON file; 2 when there is nothing to measure."""
    options = _parser().parse_args()
    torch.set_num_threads(1)
    try:
        needed = _step_rate(options)
        manifest, clips = readable_clips(options)
        sharded = _in_shards(clips, options.shards) if options.shards else []
    except ValueError as error:
        sys.stderr.write(f"python -m benchmarks.loader: {error}\n")
        return 2
    device = torch.device("cpu")
    seconds = interleave(
        _contestants(options, clips, sharded, device), rounds=options.rounds, warmup=1
    )
    rates = {name: [len(clips) / spent for spent in each] for name, each in seconds.items()}
    frames = [
        bare_clip(clip, _start(n), num_frames=options.num_frames, to_rgb=False)
        for n, clip in enumerate(clips)
    ]
    result = {
        "command": command_line("benchmarks.loader"),
        "machine": machine(device),
        "manifest": Path(manifest.source).name,
        "clips": len(clips),
        "image_size": options.image_size,
        "clips_per_second_and_core": rates,
        "frames_decoded_a_clip": sum(frames) / len(frames),
        "frames_wanted_a_clip": options.num_frames,
        "step_clips_per_second": needed,
    }
    _print(Console(), result)
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


def _contestants(
    options: argparse.Namespace,
    clips: list[ClipRecord],
    sharded: list[ClipRecord],
    device: torch.device,
) -> dict[str, Callable[[], float]]:
    crop = MultiScaleCrop(options.image_size)
    read = partial(_read, num_frames=options.num_frames, crop=crop)

    def sample(clip: ClipRecord, generator: torch.Generator) -> Tensor:
        return crop(read(clip, generator), generator=generator)

    functions: dict[str, Callable[[ClipRecord, torch.Generator], Any]] = {
        BARE: partial(bare_clip, num_frames=options.num_frames),
        DECODE: partial(bare_clip, num_frames=options.num_frames, to_rgb=False),
        READ: read,
        SAMPLE: sample,
    }
    if find_spec(TORCHCODEC) is not None:
        functions[TORCHCODEC] = partial(_by_torchcodec, num_frames=options.num_frames)
    contestants = {
        name: partial(timed, partial(_all, function, clips), device, options.clock)
        for name, function in functions.items()
    }
    if sharded:
        contestants[SHARDS] = partial(timed, partial(_all, sample, sharded), device, options.clock)
    return contestants


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m benchmarks.loader", description=__doc__)
    parser.add_argument("--data", type=Path, help="manifest; the embedded corpus without one")
    parser.add_argument("--root", type=Path, help="folder of the manifest's paths")
    parser.add_argument("--shards", help="tar shards that hold the same clips under the same ids")
    parser.add_argument("--clips", type=int, choices=range(1, 10**6), default=128, metavar="N")
    parser.add_argument("--image-size", type=int, choices=range(8, 2049), default=224, metavar="N")
    parser.add_argument("--num-frames", type=int, choices=range(1, 1025), default=16, metavar="N")
    parser.add_argument("--rounds", type=int, choices=range(1, 101), default=5, metavar="N")
    parser.add_argument(
        "--clock",
        choices=tuple(CLOCKS),
        default="wall",
        help="processor: of a shared machine only what is computed",
    )
    step = parser.add_mutually_exclusive_group()
    step.add_argument("--step-clips-per-second", type=float, help="rate of the step to feed")
    step.add_argument("--step-results", type=Path, help="JSON file of benchmarks.train_step")
    parser.add_argument("--json", type=Path, help="file for the figures")
    return parser


def readable_clips(options: argparse.Namespace) -> tuple[ClipTable, list[ClipRecord]]:
    """The manifest, and its first clips that can be read.

    Raises:
        ValueError: the manifest is faulty or none of its clips can be read.
    """
    manifest = load_clips(options.data or render_corpus().validation, root=options.root)
    clips: list[ClipRecord] = []
    for record in manifest[: options.clips]:
        try:
            bare_clip(record, _start(len(clips)), num_frames=options.num_frames)
            clips.append(record)
        except (FFmpegError, ClipError, IndexError, TypeError) as error:
            sys.stderr.write(f"left out {record.path}: {error}\n")
    if not clips:
        raise ValueError(f"{manifest.source} holds no clip that can be read; check the files")
    return manifest, clips


def _in_shards(clips: list[ClipRecord], source: str) -> list[ClipRecord]:
    """The same clips in tar shards.

    Raises:
        ValueError: the shards are faulty, or lack one of the clips.
    """
    found = {clip.video_id: clip for clip in load_clips(source)}
    lacking = [clip.video_id for clip in clips if clip.video_id not in found]
    if lacking:
        raise ValueError(f"{source} lacks {len(lacking)} of the clips, such as {lacking[0]}")
    return [found[clip.video_id] for clip in clips]


def bare_clip(
    clip: ClipRecord, generator: torch.Generator, *, num_frames: int, to_rgb: bool = True
) -> int:
    """Decode one random clip as a first script would; returns the number of frames decoded."""
    address = f"file:{ShardCache().local(clip.path)}"
    with av.open(address, options={"protocol_whitelist": "file"}) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        rate, time_base = stream.average_rate, stream.time_base
        assert rate is not None
        assert time_base is not None
        total = stream.frames or int((stream.duration or 0) * time_base * rate)
        position = float(torch.rand((), generator=generator, dtype=torch.float64))
        indices = frame_indices(total, num_frames=num_frames, stride=_STRIDE, position=position)
        times = [(stream.start_time or 0) + float(index / rate / time_base) for index in indices]
        if indices[0] > 0:
            container.seek(int(times[0]), stream=stream)
        number, taken = 0, []
        for number, frame in enumerate(container.decode(stream), 1):
            while len(taken) < num_frames and (frame.pts or 0) + 0.5 >= times[len(taken)]:
                taken.append(frame.to_ndarray(format="rgb24") if to_rgb else frame.pts)
            if len(taken) == num_frames:
                return number
    return number


def _read(
    clip: ClipRecord, generator: torch.Generator, *, num_frames: int, crop: MultiScaleCrop
) -> Tensor:
    return read_clip(
        ShardCache().local(clip.path),
        num_frames=num_frames,
        stride=_STRIDE,
        generator=generator,
        short_side=crop.short_side,
        span=clip.span,
    )


def _by_torchcodec(clip: ClipRecord, generator: torch.Generator, *, num_frames: int) -> Tensor:
    """The frames of `frame_indices` in full size, by torchcodec with one thread."""
    from torchcodec.decoders import (  # pyright: ignore[reportMissingImports]
        VideoDecoder,
    )

    decoder = VideoDecoder(str(ShardCache().local(clip.path)), num_ffmpeg_threads=1)
    position = float(torch.rand((), generator=generator, dtype=torch.float64))
    chosen = frame_indices(len(decoder), num_frames=num_frames, stride=_STRIDE, position=position)
    return decoder.get_frames_at(chosen).data


def _all(function: Callable[[ClipRecord, torch.Generator], Any], clips: list[ClipRecord]) -> None:
    for number, clip in enumerate(clips):
        function(clip, _start(number))


def _start(number: int) -> torch.Generator:
    return derive_generator(0, 0, number)


def _step_rate(options: argparse.Namespace) -> float | None:
    if options.step_results is None:
        return options.step_clips_per_second
    try:
        steps = json.loads(options.step_results.read_text(encoding="utf-8"))["steps"]
        return Spread.of(steps["packed"]["clips_per_second"]).median
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"{options.step_results} is no result of benchmarks.train_step ({error}); make one "
            "with its --json option"
        ) from error


def _print(console: Console, result: dict[str, Any]) -> None:
    rates = result["clips_per_second_and_core"]
    table = Table(
        title=f"{result['clips']} clips of {result['manifest']}, to {result['image_size']} px"
    )
    for column in ("", "clips/s and core", "of the bare loop"):
        table.add_column(column, justify="left" if not column else "right")
    for name, each in rates.items():
        shares = [own / bare for own, bare in zip(each, rates[BARE], strict=True)]
        table.add_row(name, Spread.of(each).text(1), Spread.of(shares).text())
    console.print(table)
    console.print(
        f"{result['frames_decoded_a_clip']:.1f} frames decoded for "
        f"{result['frames_wanted_a_clip']} wanted: from the key frame before the first to the last",
    )
    needed = result["step_clips_per_second"]
    if needed is None:
        console.print("cores to feed a step: give --step-clips-per-second or --step-results")
        return
    cores = needed / Spread.of(rates[SAMPLE]).median
    console.print(f"a step of {needed:.2f} clips/s needs {cores:.2f} cores for its clips")


if __name__ == "__main__":
    raise SystemExit(main())
