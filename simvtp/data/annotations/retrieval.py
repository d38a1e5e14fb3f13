"""Captions of the retrieval benchmarks, read as they are published."""

from collections.abc import Callable, Sequence
from pathlib import Path

from simvtp.data.annotations.caption_formats import (
    LSMDC_CELLS,
    MSVD_LINE,
    CaptionedVideos,
    read_activitynet,
    read_captioned_list,
    read_didemo,
    read_lsmdc,
    read_msrvtt,
    read_msrvtt_annotations,
    read_msrvtt_test,
    read_msvd,
    read_msvd_table,
    read_path_captions,
    read_word_lists,
)
from simvtp.data.annotations.document import Document, numbered, text_of
from simvtp.data.annotations.video_files import (
    Missing,
    Video,
    locate,
    report_missing,
    require_missing,
)
from simvtp.data.clip_table import ClipRecord
from simvtp.data.manifests.arrow import PARQUET_ENDINGS
from simvtp.data.manifests.loading import SHEET_ENDINGS
from simvtp.data.manifests.names import VIDEO_ENDINGS
from simvtp.data.manifests.problems import shown
from simvtp.data.manifests.tables import TABLE_ENDINGS, delimiter_of, looks_like_table
from simvtp.data.manifests.text import first_line
from simvtp.data.places import Place, named_place
from simvtp.data.sources import load_clips, require_captions

_MANIFEST_COLUMNS = ({"videoid", "path", "caption"}, {"videoid", "page_dir", "name"})
_KNOWN = (
    "MSR-VTT (its JSON, the 1k-A test table, or JSON {path: caption}), DiDeMo, ActivityNet "
    "Captions, MSVD (descriptions as text, table or raw-captions.pkl), LSMDC, a list of {video, "
    "caption}, or one of our manifests"
)


def load_retrieval(
    path: str | Place,
    *,
    root: str | Path | None = None,
    split: str | Path | None = None,
    missing: Missing = "refuse",
    columns: str | None = None,
    follow_links: bool = False,
) -> Sequence[ClipRecord]:
    """Read the captions of a retrieval benchmark; what is in the file tells which one it is.

    The functions of `caption_formats` tell how each format looks. A video's file is found by its
    name in any folder below the root. Folders, other tables and shards are read by `load_clips`.

    Args:
        path: the annotation.
        root: folder of the videos; without one the annotation's.
        split: a file that lists the videos to take: one id a line, a table with the column
            video_id, or a JSON list; or the name of a split that the annotation itself holds
            (MSR-VTT: train, validate, test). None takes all.
        missing: whether videos without a file, or listed ones without a caption, are refused or
            left out with a warning.
        columns: as for `load_clips`, of a table that is no benchmark's.
        follow_links: as for `load_clips`.

    Raises:
        ManifestError: the annotation, the list or the root is missing, unknown or faulty.
    """
    require_missing(missing)
    place = named_place(path)
    if not isinstance(place, Path) or columns or _is_for_load_clips(place):
        clips = load_clips(place, root=root, columns=columns, follow_links=follow_links)
        clips = _listed_records(clips, split, missing)
        require_captions(clips, source=place, purpose="retrieval")
        return clips
    document = Document(place)
    rows = _chosen(document, _reader(document)(document), split, missing)
    videos = [Video(place, row.names) for place, row in rows]
    files = locate(document, videos, root=root, missing=missing)
    return [
        ClipRecord(row.video_id, file, row.captions)
        for (_, row), file in zip(rows, files, strict=True)
        if file is not None
    ]


def read_video_list(path: str | Path) -> list[str]:
    """Ids in a file that lists videos: one a line, a column video_id, or a JSON list.

    Raises:
        ManifestError: it cannot be read, or an id is empty.
    """
    document = Document(path)
    if isinstance(document.value, dict):
        raise document.error("a list of videos must be a JSON list, not an object")
    if document.value is not None:
        rows = document.parsed(numbered(document.value), lambda value: text_of(value, "id"))
    elif "video_id" in document.columns:
        column = document.columns.index("video_id")
        cells = ((place, row[column : column + 1]) for place, row in document.table())
        rows = document.parsed(cells, lambda row: text_of("".join(row), "video_id"))
    else:
        rows = document.parsed(document.lines(), lambda line: text_of(line, "id"))
    return list(dict.fromkeys(video_id for _, video_id in rows))


def _reader(document: Document) -> Callable[[Document], CaptionedVideos]:
    """The function that reads the document's format."""
    if read := _table_reader(document) if document.value is None else _json_reader(document):
        return read
    hint = f"give {_KNOWN}"
    if document.columns == ["video_id"]:
        hint = "it lists videos only: give it as split, with the annotation that has the captions"
    raise document.error(
        f"it begins with {shown(document.first_line)}, which no known format does; {hint}"
    )


def _json_reader(document: Document) -> Callable[[Document], CaptionedVideos] | None:
    value = document.value
    if isinstance(value, list):
        first = value[0] if value else None
        if not isinstance(first, dict):
            return None
        return read_didemo if {"video", "description"} <= first.keys() else read_captioned_list
    first = next(iter(value.values()), None)
    inner = first[0] if isinstance(first, list) and first else None
    if isinstance(value.get("sentences"), list):
        return read_msrvtt
    if isinstance(value.get("annotations"), list):
        return read_msrvtt_annotations
    if isinstance(first, dict):
        return read_activitynet
    if isinstance(inner, dict):
        return read_captioned_list
    return read_word_lists if isinstance(inner, list) else read_path_captions


def _table_reader(document: Document) -> Callable[[Document], CaptionedVideos] | None:
    return _reader_of_line(document.first_line, document.columns)


def _reader_of_line(
    line: str, columns: Sequence[str]
) -> Callable[[Document], CaptionedVideos] | None:
    """What reads the benchmark whose text begins with a line; `columns` are its cells."""
    if {"video_id", "sentence"} <= {*columns}:
        return read_msrvtt_test
    if {"VideoID", "Start", "End", "Language", "Description"} <= {*columns}:
        return read_msvd_table
    if line.count("\t") == LSMDC_CELLS - 1:
        return read_lsmdc
    return read_msvd if line.startswith("#") or MSVD_LINE.fullmatch(line.strip()) else None


def _is_for_load_clips(file: Path) -> bool:
    """Whether these are videos, shards, or a table that is read row by row."""
    ending = file.suffix.lower()
    if ".tar" in str(file) or not file.is_file():
        return ".tar" in str(file) or file.is_dir()
    if ending not in TABLE_ENDINGS and ending != ".jsonl":
        return ending in (*PARQUET_ENDINGS, *VIDEO_ENDINGS, *SHEET_ENDINGS)
    # The first line only: a table may be longer than the memory.
    first = first_line(file)
    if ending == ".jsonl":
        return '"path"' in first
    columns = [name.strip() for name in first.split(delimiter_of(first))]
    if any(names <= {*columns} for names in _MANIFEST_COLUMNS):
        return True
    if columns == ["video_id"]:
        return False
    return _reader_of_line(first, columns) is None and looks_like_table(first)


def _chosen(
    document: Document, rows: CaptionedVideos, split: str | Path | None, missing: Missing
) -> CaptionedVideos:
    """The rows of a split."""
    if split is None:
        return rows
    own = {row.split for _, row in rows} - {None}
    if str(split) in own:
        return [(place, row) for place, row in rows if row.split == str(split)]
    if own and not Path(split).is_file():
        names = ", ".join(sorted(map(str, own)))
        raise document.error(
            f"split {split} is neither one of its own ({names}) nor a file that lists videos"
        )
    listed = read_video_list(split)
    known = {row.video_id for _, row in rows}
    _report_unknown(split, listed, known, f"in {document.source}", missing)
    wanted = set(listed)
    return [(place, row) for place, row in rows if row.video_id in wanted]


def _listed_records(
    records: Sequence[ClipRecord], split: str | Path | None, missing: Missing
) -> Sequence[ClipRecord]:
    """The clips that a list names."""
    if split is None:
        return records
    listed = read_video_list(split)
    _report_unknown(split, listed, {one.video_id for one in records}, "in the manifest", missing)
    wanted = set(listed)
    return [record for record in records if record.video_id in wanted]


def _report_unknown(
    split: str | Path, listed: list[str], known: set[str], where: str, missing: Missing
) -> None:
    lost = [shown(video_id) for video_id in listed if video_id not in known]
    if lost:
        report_missing(
            Document(split),
            lost,
            len(listed),
            where=where,
            missing=missing,
            advice="check that the list is of this annotation",
        )
