"""Formats of the classification benchmarks: a function for each."""

import re
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

from simvtp.data.annotations.document import Document, field, numbered, text_of, whole_number
from simvtp.data.manifests.columns import VIDEO_FIELDS, plain_fields
from simvtp.data.manifests.problems import shown

KINETICS_COLUMNS = {"youtube_id", "time_start", "time_end"}
SSV2_ANSWER = re.compile(r"(?P<video>\d+);(?P<label>.+)")
_SSV2_CLASSES = ("labels.json", "something-something-v2-labels.json")
HMDB_FILE = re.compile(r"(?P<name>.+)_test_split(?P<number>\d)\.txt")
_HMDB_SPLITS = {"train": "1", "test": "2"}
UCF_CLASSES = "classInd.txt"
UCF_LINE = re.compile(r"(?P<folder>[^/\s]+)/(?P<file>[^/\s,]+)(?:\s+(?P<number>\d+))?\s*")
LIST_LINE = re.compile(r"(?P<path>.*[^\s,;])(?:\s*[,;]\s*|\s+)(?P<number>\d+)\s*")


class LabelledVideo(NamedTuple):
    """A row: names of the video's file, as for `Video`, and its class by name or by number."""

    video_id: str
    names: tuple[str, ...]
    label: str | int


class LabelledVideos(NamedTuple):
    """Rows with their places, and the classes where the benchmark itself puts them in order."""

    rows: list[tuple[str, LabelledVideo]]
    classes: tuple[str, ...] | None = None


class ClassNumbersWarning(UserWarning):
    """The numbers of an annotation's classes do not run from 0 without a gap."""


def read_kinetics(document: Document, split: str | None) -> LabelledVideos:
    """Kinetics: label,youtube_id,time_start,time_end,split[,is_cc], in seconds.

    Files are called ID_START_END with six digits for each time. Source:
    github.com/cvdfoundation/kinetics-dataset.
    """
    if "label" not in document.columns:
        raise document.error("it has no column label: a test list without classes is of no use")
    if split is not None and "split" not in document.columns:
        raise document.error(f"it has no column split, so split {split!r} cannot be taken")

    def parse(cells: list[str]) -> LabelledVideo | None:
        row = document.named_cells(cells)
        if split is not None and row["split"].strip() != split:
            return None
        # Some copies were written as floating-point numbers.
        start, end = (
            whole_number(row[name].strip().removesuffix(".0"), name)
            for name in ("time_start", "time_end")
        )
        name = f"{text_of(row['youtube_id'], 'youtube_id')}_{start:06d}_{end:06d}"
        return LabelledVideo(name, (name,), text_of(row["label"], "label"))

    return LabelledVideos(document.parsed(document.table(), parse))


def read_ssv2(document: Document, rows: list[Any]) -> LabelledVideos:
    """Something-Something v2: a list of {id, label, template, placeholders}.

    The class is the template without its square brackets; labels.json beside it numbers the
    classes: {class: "0"}. Files are called by the id. Source: the release's instructions at
    developer.qualcomm.com/software/ai-datasets/something-something.
    """

    def parse(row: Any) -> LabelledVideo:
        video_id = str(whole_number(field(row, "id"), "id"))
        template = text_of(field(row, "template"), "template")
        return LabelledVideo(video_id, (video_id,), re.sub(r"[\[\]]", "", template))

    return LabelledVideos(document.parsed(numbered(rows), parse), _ssv2_classes(document))


def has_labels(rows: list[Any]) -> bool:
    """Whether these are {video, label}; Something-Something's, which have a template, are not."""
    fields = plain_fields(rows[0]) if rows else {}
    return "label" in fields and "template" not in fields


def read_json_list(document: Document, rows: list[Any]) -> LabelledVideos:
    """Our own: a list of {video, label}, by split or not; a class is a name or a number."""

    def parse(row: Any) -> LabelledVideo:
        fields = plain_fields(row)
        name = next((name for name in VIDEO_FIELDS if name in fields), None)
        if name is None or "label" not in fields:
            raise ValueError(f"it must be an object with video and label, got {shown(row)}")
        path, label = text_of(fields[name], name), fields["label"]
        is_name = isinstance(label, str)
        label = text_of(label, "label") if is_name else whole_number(label, "label")
        return LabelledVideo(path, (path,), label)

    return LabelledVideos(document.parsed(numbered(rows), parse))


def read_ssv2_answers(document: Document) -> LabelledVideos:
    """Something-Something v2's test-answers.csv: a line `id;class` for each video, no header.

    labels.json beside it numbers the classes. Source: the same release, whose test.json has ids
    only.
    """

    def parse(line: str) -> LabelledVideo:
        found = SSV2_ANSWER.fullmatch(line.strip())
        if found is None:
            raise ValueError(f"it must be a number, a semicolon and a class, got {shown(line)}")
        return LabelledVideo(found["video"], (found["video"],), text_of(found["label"], "class"))

    return LabelledVideos(document.parsed(document.lines(), parse), _ssv2_classes(document))


def _ssv2_classes(document: Document) -> tuple[str, ...] | None:
    beside = (document.source.with_name(name) for name in _SSV2_CLASSES)
    listed = next((path for path in beside if path.is_file()), None)
    return None if listed is None else tuple(_numbered_classes(Document(listed), first=0))


def read_ucf(document: Document) -> LabelledVideos:
    """UCF101: a line `Class/v_Class_g01_c01.avi` for each video, in train lists with a number.

    classInd.txt beside it numbers the classes from 1; without it they are sorted. Source:
    UCF101TrainTestSplits-RecognitionTask at www.crcv.ucf.edu/data/UCF101.php.
    """
    listed = document.source.with_name(UCF_CLASSES)
    classes = _numbered_classes(Document(listed), first=1) if listed.is_file() else None

    def parse(line: str) -> LabelledVideo:
        found = UCF_LINE.fullmatch(line)
        if found is None:
            raise ValueError(f"it must be Class/file.avi and perhaps a number, got {shown(line)}")
        folder, file, number = found["folder"], found["file"], found["number"]
        if classes and number and classes.get(folder) != int(number):
            raise ValueError(f"class {number} is not {folder} in {listed.name}")
        return LabelledVideo(file, (f"{folder}/{file}", file), folder)

    rows = document.parsed(document.lines(), parse)
    return LabelledVideos(rows, None if classes is None else tuple(classes))


def read_hmdb(document: Document, split: str | None) -> LabelledVideos:
    """HMDB51: files CLASS_test_split1.txt, all 51 read together, with lines `file.avi 1`.

    1 is for training, 2 for testing, 0 is not used. Source: test_train_splits at
    serre-lab.clps.brown.edu/resource/hmdb-a-large-human-motion-database.
    """
    if split not in _HMDB_SPLITS:
        raise document.error(f"split must be train or test for HMDB51, got {split!r}")
    ending = document.source.name[-len("_test_split1.txt") :]
    rows = []
    for file in sorted(document.source.parent.glob(f"*{ending}")):
        label = file.name.removesuffix(ending)

        def parse(line: str, label: str = label) -> LabelledVideo | None:
            name, _, use = line.strip().rpartition(" ")
            if use not in ("0", "1", "2") or not name.strip():
                raise ValueError(f"it must be a file and 0, 1 or 2, got {shown(line)}")
            names = (f"{label}/{name.strip()}", name.strip())
            wanted = use == _HMDB_SPLITS[split]
            return LabelledVideo(name.strip(), names, label) if wanted else None

        part = Document(file)
        rows += [(f"{file.name} {place}", row) for place, row in part.parsed(part.lines(), parse)]
    return LabelledVideos(rows)


def read_table(document: Document) -> LabelledVideos:
    """Our own: a table with the columns path and label, the class's name."""

    def parse(cells: list[str]) -> LabelledVideo:
        row = document.named_cells(cells)
        path = text_of(row["path"], "path")
        return LabelledVideo(path, (path,), text_of(row["label"], "label"))

    return LabelledVideos(document.parsed(document.table(), parse))


def read_list(document: Document) -> LabelledVideos:
    """Lines of a path and the number of its class, with a space, a comma or a semicolon between.

    Source: the lists that github.com/MCG-NJU/VideoMAE trains with (DATASET.md).
    """

    def parse(line: str) -> LabelledVideo:
        found = LIST_LINE.fullmatch(line)
        if found is None:
            raise ValueError(f"it must be a path and a number, got {shown(line)}")
        return LabelledVideo(found["path"], (found["path"],), int(found["number"]))

    return LabelledVideos(document.parsed(document.lines(), parse))


def note_numbers(document: Document, numbers: list[int], *, first: int) -> None:
    """Tell that classes are not numbered from `first` on without a gap.

    Args:
        document: where they are numbered.
        numbers: their numbers, in rising order.
        first: the usual first number.
    """
    gap = next((n for n, found in enumerate(numbers, first) if n != found), None)
    if gap is not None:
        warnings.warn(
            f"{document.source}: its {len(numbers)} classes have the numbers {numbers[0]} to "
            f"{numbers[-1]} and none has {gap}: they are taken in the order of their numbers",
            ClassNumbersWarning,
            stacklevel=2,
        )


def _numbered_classes(document: Document, *, first: int) -> dict[str, int]:
    """Numbers of classes, in rising order: {class: "0"}, or lines `1 class`."""

    def items() -> Iterator[tuple[str, tuple[str, Any]]]:
        if isinstance(document.value, dict):
            yield from ((f"class {name!r}", (name, n)) for name, n in document.value.items())
        else:
            for place, line in document.lines():
                number, _, name = line.strip().partition(" ")
                yield place, (name, number)

    def parse(item: tuple[str, Any]) -> tuple[int, str]:
        return whole_number(item[1], "number of a class"), text_of(item[0], "class")

    pairs = sorted(pair for _, pair in document.parsed(items(), parse))
    numbers = {name: number for number, name in pairs}
    if len(set(numbers.values())) < len(pairs):
        raise document.error("each class must have a name and a number of its own")
    note_numbers(document, list(numbers.values()), first=first)
    return numbers
