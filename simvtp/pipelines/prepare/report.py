"""What a check of clips found, as a table and as plain values."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from rich.table import Table

from simvtp.data.preparing.checks import CheckedClip
from simvtp.data.preparing.shard_writer import REPORT_NAME, DroppedClip, FinishedPart
from simvtp.pipelines.prepare.dedupe import LeftOutCopy
from simvtp.printing import counted, printable

_MAX_SHOWN = 5


class ClipReport:
    """Figures of clips that are added one after the other.

    Args:
        faulty_rows: rows of the manifest, or members of shards, that are no clips at all.
    """

    def __init__(self, faulty_rows: Sequence[dict[str, str]] = ()) -> None:
        self.num_clips = 0
        self.num_bytes = 0
        self.bad: list[dict[str, str]] = list(faulty_rows)
        self.num_faulty_rows = len(self.bad)
        self.durations: list[float] = []
        self.caption_words: list[int] = []
        self.resolutions: Counter[str] = Counter()
        self.frame_rates: Counter[str] = Counter()
        self.codecs: Counter[str] = Counter()
        self.high_ranges: Counter[str] = Counter()
        self._names_by_hash: dict[str, list[str]] = {}
        self._captions: Counter[str] = Counter()

    def add(self, clip: CheckedClip) -> None:
        """Count one more clip."""
        record, found = clip.record, clip.inspection
        self.num_clips += 1
        self._captions.update(record.captions)
        self.caption_words += [len(caption.split()) for caption in record.captions]
        if found is None:
            self.bad.append(DroppedClip(record.video_id, record.name, clip.reason)._asdict())
            return
        self.num_bytes += found.num_bytes
        self.durations.append(found.duration)
        self.resolutions[f"{found.width}x{found.height}"] += 1
        self.frame_rates[f"{found.frames_per_second:.4g}"] += 1
        self.codecs[found.codec] += 1
        if found.high_range is not None:
            self.high_ranges[found.high_range] += 1
        self._names_by_hash.setdefault(found.sha256, []).append(record.name)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for a JSON file."""
        captions = {text: number for text, number in self._captions.items() if number > 1}
        return {
            "clips": self.num_clips,
            "faulty_rows": self.num_faulty_rows,
            "decoded": len(self.durations),
            "bytes": self.num_bytes,
            "seconds": spread(self.durations),
            "resolutions": dict(self.resolutions.most_common()),
            "frame_rates": dict(self.frame_rates.most_common()),
            "codecs": dict(self.codecs.most_common()),
            "high_ranges": dict(self.high_ranges.most_common()),
            "captions": len(self.caption_words),
            "caption_words": spread(self.caption_words),
            "identical_clips": [names for names in self._names_by_hash.values() if len(names) > 1],
            "identical_captions": captions,
            "bad": self.bad,
        }


def check_table(report: ClipReport) -> Table:
    """Figures of a check, one kind a row."""
    figures = report.as_dict()
    copies = figures["identical_clips"]
    repeated = sum(figures["identical_captions"].values()) - len(figures["identical_captions"])
    table = Table(title=counted(report.num_clips, "clip"), show_header=False)
    table.add_row("decode", f"{figures['decoded']} of {report.num_clips}")
    table.add_row("bad", str(len(report.bad) - report.num_faulty_rows))
    table.add_row("faulty rows or members", str(report.num_faulty_rows))
    table.add_row("size", f"{report.num_bytes / 1e6:.1f} MB")
    table.add_row("durations", _spread_text(figures["seconds"], "s"))
    for name in ("resolutions", "frame_rates", "codecs"):
        table.add_row(name.replace("_", " "), _most_common(figures[name]))
    if figures["high_ranges"]:
        found = _most_common(figures["high_ranges"])
        table.add_row("high dynamic range", f"{found}: read as they are, so pale and dim")
    table.add_row("captions", str(figures["captions"]))
    table.add_row("words of a caption", _spread_text(figures["caption_words"], ""))
    table.add_row("copies of other clips", str(sum(len(names) - 1 for names in copies)))
    table.add_row("copies of other captions", str(repeated))
    return table


def prepared_table(summary: Mapping[str, Any], folder: Path) -> Table:
    """What was written and what was left out."""
    table = Table(title=str(folder), show_header=False)
    table.add_row("clips", str(summary["clips"]))
    table.add_row("left out", f"{summary['dropped']} (reasons: {REPORT_NAME})")
    if summary["copies"]:
        table.add_row("copies", f"{len(summary['copies'])} left out (of which: {REPORT_NAME})")
    table.add_row("shards", f"{summary['shards']}, {summary['bytes'] / 1e6:.1f} MB")
    table.add_row("durations", _spread_text(summary["seconds"], "s"))
    return table


def bad_clip_lines(bad: Sequence[Mapping[str, str]]) -> Iterator[str]:
    """A line for each of the first bad clips."""
    for clip in bad[:_MAX_SHOWN]:
        yield printable(f"bad: {clip['name']}: {clip['reason']}")
    if len(bad) > _MAX_SHOWN:
        yield f"... and {len(bad) - _MAX_SHOWN} more"


def summarize(
    parts: Sequence[FinishedPart],
    faulty_rows: Sequence[dict[str, str]] = (),
    copies: Sequence[LeftOutCopy] = (),
) -> dict[str, Any]:
    """Counts, seconds and bytes of finished parts, and every clip or row that was left out."""
    durations = [seconds for part in parts for seconds in part.durations]
    dropped = [*faulty_rows, *(clip._asdict() for part in parts for clip in part.dropped)]
    shards = [part.shard for part in parts if part.shard is not None]
    return {
        "clips": len(durations),
        "dropped": len(dropped),
        "shards": len(shards),
        "bytes": sum(shard.bytes for shard in shards),
        "seconds": spread(durations),
        "dropped_clips": dropped,
        "copies": [copy._asdict() for copy in copies],
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Smallest, median, largest and sum of numbers; empty where there are none."""
    if not values:
        return {}
    return {"min": min(values), "median": median(values), "max": max(values), "total": sum(values)}


def _spread_text(figures: Mapping[str, float], unit: str) -> str:
    if not figures:
        return "-"
    shown = {name: f"{value:,.1f}".removesuffix(".0") for name, value in figures.items()}
    return ", ".join(f"{name} {value} {unit}".rstrip() for name, value in shown.items())


def _most_common(counts: Mapping[str, int]) -> str:
    shown = [f"{name} ({number})" for name, number in list(counts.items())[:_MAX_SHOWN]]
    if len(counts) > _MAX_SHOWN:
        shown.append(f"and {len(counts) - _MAX_SHOWN} more")
    return ", ".join(shown) or "-"
