"""Classes of videos, read as the benchmarks publish them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from simvtp.data.annotations.class_formats import (
    HMDB_FILE,
    KINETICS_COLUMNS,
    LIST_LINE,
    SSV2_ANSWER,
    UCF_CLASSES,
    UCF_LINE,
    LabelledVideo,
    LabelledVideos,
    has_labels,
    note_numbers,
    read_hmdb,
    read_json_list,
    read_kinetics,
    read_list,
    read_ssv2,
    read_ssv2_answers,
    read_table,
    read_ucf,
)
from simvtp.data.annotations.document import Document, listed_rows
from simvtp.data.annotations.video_files import Missing, Video, locate, require_missing
from simvtp.data.clip_table import ClipRecord
from simvtp.data.datasets.tasks import LabelledClips
from simvtp.data.manifests.problems import Problems, shown

_KNOWN = (
    "Kinetics (label,youtube_id,time_start,time_end), Something-Something v2 (a list of "
    "{id, template}, or lines id;class), UCF101's lists, HMDB51's *_test_split1.txt, lines of "
    "path and number, a table path,label, or a list of {video, label}"
)


def load_labelled(
    path: str | Path,
    *,
    root: str | Path | None = None,
    classes: Sequence[str] | None = None,
    split: str | None = None,
    missing: Missing = "refuse",
) -> LabelledClips:
    """Read the classes of a benchmark's videos; what is in the file tells which one it is.

    The functions of `class_formats` tell how each format looks. A video's file is found by its name
    in any folder below the root, or at the path that is given. The classes are all that the
    annotation names, whether or not their videos are there: in the benchmark's own order where it
    has one, else sorted.

    Args:
        path: the annotation.
        root: folder of the videos; without one the annotation's.
        classes: classes of the training split, for any other split.
        split: the part to take, where one file holds several: of Kinetics the value in the column
            split, of HMDB51 train or test, of {"train": [...], ...} one of its lists.
        missing: whether videos without a file are refused or left out with a warning.

    Raises:
        ManifestError: the annotation or the root is missing, unknown or faulty, or a class is not
            among `classes`.
    """
    require_missing(missing)
    document = Document(path)
    found = _read(document, split)
    rows = _without_repeats(document, found.rows)
    labels = [row.label for _, row in rows]
    names = _class_names(document, labels, found.classes) if classes is None else tuple(classes)
    numbers = _class_numbers(document, rows, names)
    videos = [Video(place, row.names) for place, row in rows]
    files = locate(document, videos, root=root, missing=missing)
    records, kept = [], []
    for (_, row), number, file in zip(rows, numbers, files, strict=True):
        if file is not None:
            records.append(ClipRecord(row.video_id, file, (names[number],)))
            kept.append(number)
    return LabelledClips(records, np.array(kept, dtype=np.int64), names)


def _read(document: Document, split: str | None) -> LabelledVideos:
    """Rows of the document, whose format is told by what is in it."""
    columns = set(document.columns)
    if HMDB_FILE.fullmatch(document.source.name):
        return read_hmdb(document, split)
    if document.value is None and columns >= KINETICS_COLUMNS:
        return read_kinetics(document, split)
    rows = listed_rows(document, split)
    if rows is not None:
        return read_json_list(document, rows) if has_labels(rows) else read_ssv2(document, rows)
    if split is not None:
        raise document.error(f"it holds one split only: leave out split, got {split!r}")
    if document.value is None and columns >= {"path", "label"}:
        return read_table(document)
    if SSV2_ANSWER.fullmatch(document.first_line.strip()):
        return read_ssv2_answers(document)
    ucf = UCF_LINE.fullmatch(document.first_line)
    if ucf and (
        ucf["number"] is None
        or document.source.with_name(UCF_CLASSES).is_file()
        or ucf["file"].lower().startswith(f"v_{ucf['folder']}_g".lower())
    ):
        return read_ucf(document)
    if document.value is None and LIST_LINE.fullmatch(document.first_line):
        return read_list(document)
    raise document.error(
        f"it begins with {shown(document.first_line)}, which no known format does; give {_KNOWN}"
    )


def _without_repeats(
    document: Document, rows: list[tuple[str, LabelledVideo]]
) -> list[tuple[str, LabelledVideo]]:
    """Each video once; a video in two classes is a fault."""
    problems, first = Problems(), {}
    for place, row in rows:
        earlier, known = first.setdefault(row.names, (place, row))
        if known.label != row.label:
            problems.add(
                f"{place}: {shown(row.video_id)} has class {row.label!r}, on {earlier} it has "
                f"{known.label!r}; keep one"
            )
    if problems.count:
        raise document.error(str(problems))
    return list(first.values())


def _class_names(
    document: Document, labels: list[str | int], numbered_classes: tuple[str, ...] | None
) -> tuple[str, ...]:
    """Classes of a training split."""
    if numbered_classes is not None:
        return numbered_classes
    numbers = {label for label in labels if isinstance(label, int)}
    if numbers:
        note_numbers(document, sorted(numbers), first=0)
        return tuple(str(number) for number in sorted(numbers))
    return tuple(sorted({str(label) for label in labels}))


def _class_numbers(
    document: Document, rows: list[tuple[str, LabelledVideo]], classes: tuple[str, ...]
) -> list[int]:
    """Number of each row's class."""
    by_name = {name: number for number, name in enumerate(classes)}
    if len(by_name) != len(classes):
        raise ValueError(f"classes must differ, got {len(classes)} names of {len(by_name)} classes")

    # A list that has numbers alone calls its classes by them.
    are_numbers = all(name.isdecimal() for name in classes)

    def parse(row: LabelledVideo) -> int:
        if isinstance(row.label, int) and not are_numbers:
            number = row.label if row.label < len(classes) else None
        else:
            number = by_name.get(str(row.label))
        if number is None:
            raise ValueError(
                f"class {row.label!r} is not among the {len(classes)} classes "
                f"({shown(', '.join(classes))}); give the classes of the training split"
            )
        return number

    return [number for _, number in document.parsed(rows, parse)]
