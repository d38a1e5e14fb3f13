"""Questions about videos, read as the benchmarks publish them."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from simvtp.config.checks import require_at_least
from simvtp.data.annotations.document import (
    Document,
    field,
    listed_rows,
    numbered,
    text_of,
    whole_number,
)
from simvtp.data.annotations.video_files import Missing, Video, locate, require_missing
from simvtp.data.clip_table import ClipRecord
from simvtp.data.datasets.tasks import Question, QuestionSet
from simvtp.data.manifests.problems import shown

_TGIF_OPTIONS = ("a1", "a2", "a3", "a4", "a5")
_TGIF_COUNTS = tuple(str(count) for count in range(11))
_MSVD_NAMES = "youtube_mapping.txt"
_KNOWN = (
    "MSRVTT-QA or MSVD-QA (a list of {video_id, question, answer}), TGIF-QA's tables, or a table "
    "path,question,answer[,options]"
)


class _Asked(NamedTuple):
    """A row: names of the video's file, as for `Video`; the answer, by number among options."""

    video_id: str
    names: tuple[str, ...]
    question: str
    answer: str | int
    options: tuple[str, ...] = ()


_Rows = list[tuple[str, _Asked]]


def load_questions(
    path: str | Path,
    *,
    root: str | Path | None = None,
    answers: Sequence[str] | None = None,
    num_answers: int = 1000,
    split: str | None = None,
    missing: Missing = "refuse",
) -> QuestionSet:
    """Read a benchmark's questions; what is in the file tells which one it is.

    The functions `_read_*` below tell how each format looks. A video's file is found by its name
    in any folder below the root, or at the path that is given. The vocabulary of open questions
    is counted over the whole annotation, whether or not the videos are there.

    Args:
        path: the annotation.
        root: folder of the videos; without one the annotation's.
        answers: answers of the training split, for any other split.
        num_answers: most frequent answers that make up a training split's vocabulary, equally
            frequent ones in alphabetical order. TGIF-QA's counts always have 0 to 10.
        split: the part to take, where one file holds several: {"train": [...], ...}.
        missing: whether videos without a file are refused, or left out with their questions and
            a warning.

    Raises:
        ManifestError: the annotation or the root is missing, unknown or faulty.
        ValueError: `num_answers` is below 1.
    """
    require_missing(missing)
    require_at_least(1, num_answers=num_answers)
    document = Document(path)
    rows = _read(document, split)
    _require_equal_options(document, rows)
    known = _known_answers(document, rows, answers, num_answers)
    first: dict[tuple[str, ...], Video] = {}
    for place, row in rows:
        first.setdefault(row.names, Video(place, row.names))
    files = locate(document, list(first.values()), root=root, missing=missing)
    by_names = dict(zip(first, files, strict=True))
    return _question_set([row for _, row in rows], by_names, known)


def _question_set(
    rows: Sequence[_Asked], files: dict[tuple[str, ...], Path | None], answers: tuple[str, ...]
) -> QuestionSet:
    """Clips in the order of their first question, each with all that is asked about it."""
    asked: dict[tuple[str, ...], list[_Asked]] = {}
    for row in rows:
        asked.setdefault(row.names, []).append(row)
    there = {names: file for names, file in files.items() if file is not None}
    clips = {names: number for number, names in enumerate(there)}
    records = [
        ClipRecord(asked[names][0].video_id, file, tuple(row.question for row in asked[names]))
        for names, file in there.items()
    ]
    by_text = {answer: number for number, answer in enumerate(answers)}
    questions = tuple(
        Question(
            clips[row.names],
            row.question,
            row.answer if isinstance(row.answer, int) else by_text.get(row.answer, -1),
            row.options,
        )
        for row in rows
        if row.names in clips
    )
    return QuestionSet(records, questions, answers)


def _read(document: Document, split: str | None) -> _Rows:
    """Rows of the document, whose format is told by what is in it."""
    columns = set(document.columns)
    rows = listed_rows(document, split)
    if rows is not None:
        return _read_json(document, rows)
    if split is not None:
        raise document.error(f"it holds one split only: leave out split, got {split!r}")
    if {"gif_name", "question", "answer", *_TGIF_OPTIONS} <= columns:
        return _read_tgif_choice(document)
    if {"gif_name", "question", "answer"} <= columns:
        return _read_tgif_open(document)
    if {"path", "question", "answer"} <= columns:
        return _read_table(document)
    raise document.error(
        f"it begins with {shown(document.first_line)}, which no known format does; give {_KNOWN}"
    )


def _read_json(document: Document, rows: list[Any]) -> _Rows:
    """MSRVTT-QA and MSVD-QA: a list of {id, video_id or video, question, answer[, category_id]}.

    The number n in video_id stands for the file video<n> of MSR-VTT. Only MSRVTT-QA has
    category_id; MSVD's files are called vid<n>, or as youtube_mapping.txt beside the annotation
    says in lines `ID_START_END vid<n>`. Source: github.com/xudejing/video-question-answering.
    """
    mapping = document.source.with_name(_MSVD_NAMES)
    msvd_names = _msvd_names(Document(mapping)) if mapping.is_file() else {}

    def names_of(row: Any) -> tuple[str, ...]:
        video_id = field(row, "video" if isinstance(row, dict) and "video" in row else "video_id")
        if isinstance(video_id, str) and not video_id.isdigit():
            return (text_of(video_id, "video_id"),)
        number = whole_number(video_id, "video_id")
        if "category_id" in row:
            return (f"video{number}",)
        if not msvd_names:
            return f"video{number}", f"vid{number}"
        if f"vid{number}" not in msvd_names:
            raise ValueError(f"vid{number} is not in {mapping.name}")
        return msvd_names[f"vid{number}"], f"vid{number}"

    def parse(row: Any) -> _Asked:
        names = names_of(row)
        question = text_of(field(row, "question"), "question")
        return _Asked(names[0], names, question, text_of(field(row, "answer"), "answer"))

    return document.parsed(numbered(rows), parse)


def _msvd_names(document: Document) -> dict[str, str]:
    """Names of MSVD's files by vid<n>."""

    def parse(line: str) -> tuple[str, str]:
        name, _, number = line.strip().partition(" ")
        return text_of(number, "vid<n>"), name

    return dict(pair for _, pair in document.parsed(document.lines(), parse))


def _read_tgif_choice(document: Document) -> _Rows:
    """TGIF-QA, action and transition: gif_name, question, a1 to a5, answer, ... between tabs.

    `answer` is the number of the right option, from 0. Source: dataset/README.md of
    github.com/YunseokJANG/tgif-qa.
    """

    def parse(cells: list[str]) -> _Asked:
        row = document.named_cells(cells)
        name = text_of(row["gif_name"], "gif_name")
        options = tuple(text_of(row[option], option) for option in _TGIF_OPTIONS)
        answer = whole_number(row["answer"], "answer")
        if answer >= len(options):
            raise ValueError(f"answer must be one of the options 0 to 4, got {answer}")
        return _Asked(name, (name,), text_of(row["question"], "question"), answer, options)

    return document.parsed(_tgif_rows(document), parse)


def _tgif_rows(document: Document) -> Iterator[tuple[str, list[str]]]:
    # As published, a quote is a character; copies with commas need theirs.
    return document.table(quoted=document.delimiter != "\t")


def _read_tgif_open(document: Document) -> _Rows:
    """TGIF-QA, frame and count: gif_name, question, answer, ... between tabs.

    Frame questions have a column type and a word as their answer, counts a number from 0 to 10
    (10 stands for more, too). Source: dataset/README.md of github.com/YunseokJANG/tgif-qa.
    """

    def parse(cells: list[str]) -> _Asked:
        row = document.named_cells(cells)
        name = text_of(row["gif_name"], "gif_name")
        answer = text_of(row["answer"], "answer")
        if _is_count(document) and answer not in _TGIF_COUNTS:
            raise ValueError(f"answer must be a number from 0 to 10, got {answer!r}")
        return _Asked(name, (name,), text_of(row["question"], "question"), answer)

    return document.parsed(_tgif_rows(document), parse)


def _is_count(document: Document) -> bool:
    return "gif_name" in document.columns and "type" not in document.columns


def _read_table(document: Document) -> _Rows:
    """Our own: a table with the columns path, question, answer and perhaps options.

    Options stand between bars, `red|green|blue`; the answer is one of them.
    """

    def parse(cells: list[str]) -> _Asked:
        row = document.named_cells(cells)
        path = text_of(row["path"], "path")
        question = text_of(row["question"], "question")
        answer = text_of(row["answer"], "answer")
        if not row.get("options", "").strip():
            return _Asked(path, (path,), question, answer)
        options = tuple(text_of(option, "option") for option in row["options"].split("|"))
        if options.count(answer) != 1:
            raise ValueError(f"answer must be one of the options {options}, got {answer!r}")
        return _Asked(path, (path,), question, options.index(answer), options)

    return document.parsed(document.table(), parse)


def _require_equal_options(document: Document, rows: _Rows) -> None:
    """All questions are open, or have as many options."""
    first, number = rows[0][0], len(rows[0][1].options)

    def parse(row: _Asked) -> bool:
        if len(row.options) != number:
            raise ValueError(f"it has {len(row.options)} options, {first} has {number}; use one")
        return True

    document.parsed(rows, parse)


def _known_answers(
    document: Document, rows: _Rows, answers: Sequence[str] | None, num_answers: int
) -> tuple[str, ...]:
    """The vocabulary of open questions; none where there are options."""
    if rows[0][1].options:
        return ()
    if answers is not None:
        if not answers or len(set(answers)) != len(answers):
            raise ValueError(f"answers must be one or more, all different, got {shown(answers)}")
        return tuple(answers)
    if _is_count(document):
        return _TGIF_COUNTS
    counted = Counter(str(row.answer) for _, row in rows)
    ranked = sorted(counted, key=lambda answer: (-counted[answer], answer))
    return tuple(ranked[:num_answers])


def with_known_answers(questions: QuestionSet) -> QuestionSet:
    """The questions that can be trained on: those whose answer is in the vocabulary.

    Raises:
        ValueError: there is none.
    """
    kept = tuple(question for question in questions.questions if question.answer >= 0)
    if not kept:
        raise ValueError(
            f"none of the {len(questions.questions)} questions has one of the "
            f"{len(questions.answers)} known answers; check the vocabulary"
        )
    return questions._replace(questions=kept)
