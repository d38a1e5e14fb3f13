"""Formats of the retrieval benchmarks' captions: a function for each."""

import re
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from simvtp.data.annotations.document import Document, field, numbered, text_of
from simvtp.data.manifests.checks import checked_captions
from simvtp.data.manifests.objects import ObjectFields, rows_of_json
from simvtp.data.manifests.problems import ProblemError, shown
from simvtp.data.manifests.rows import Row

MSVD_LINE = re.compile(r"(?P<video>\S+_\d+_\d+)\s+(?P<caption>.+)")
LSMDC_CELLS = 6


class CaptionedVideo(NamedTuple):
    """A video of an annotation and what is said about it.

    Attributes:
        video_id: its id.
        names: names that its file may have, as for `Video`.
        captions: its captions.
        split: the split that the annotation itself puts it in.
    """

    video_id: str
    names: tuple[str, ...]
    captions: tuple[str, ...]
    split: str | None = None


# Place of a video's first row in the annotation, and the video.
CaptionedVideos = list[tuple[str, CaptionedVideo]]


def read_msrvtt(document: Document) -> CaptionedVideos:
    """MSR-VTT: an object with `videos` [{video_id, split, ...}] and `sentences`.

    A sentence is {video_id, caption, sen_id}, 20 for each video. Source: the readme of "MSR-VTT
    10K"; MSRVTT_data.json of github.com/ArrowLuo/CLIP4Clip joins its parts.
    """

    def split_of(video: Any) -> tuple[str, str | None]:
        split = video.get("split") if isinstance(video, dict) else None
        if split is not None:
            split = text_of(split, "split")
        return text_of(field(video, "video_id"), "video_id"), split

    videos = document.value.get("videos") or []
    if not isinstance(videos, list):
        raise document.error(f"videos must be a list, got {shown(videos)}")
    rows = document.parsed(numbered(videos, name="video"), split_of) if videos else []
    splits = dict(row for _, row in rows)

    def parse(sentence: Any) -> CaptionedVideo:
        video_id = text_of(field(sentence, "video_id"), "video_id")
        caption = text_of(field(sentence, "caption"), "caption")
        return CaptionedVideo(video_id, (video_id,), (caption,), splits.get(video_id))

    sentences = document.value["sentences"]
    return _merged(document.parsed(numbered(sentences, name="sentence"), parse))


def read_msrvtt_annotations(document: Document) -> CaptionedVideos:
    """MSR-VTT in the layout of COCO: an object with `annotations` [{image_id, caption, id}].

    The id of a video stands in image_id; lists such as train_list_jsfusion.txt are the splits.
    Source: MSR_VTT.json as the loader of github.com/m-bain/frozen-in-time reads it.
    """

    def parse(annotation: Any) -> CaptionedVideo:
        video_id = text_of(field(annotation, "image_id"), "image_id")
        caption = text_of(field(annotation, "caption"), "caption")
        return CaptionedVideo(video_id, (video_id,), (caption,))

    rows = numbered(document.value["annotations"], name="annotation")
    return _merged(document.parsed(rows, parse))


def read_msrvtt_test(document: Document) -> CaptionedVideos:
    """MSR-VTT's 1k-A test table: key, vid_key, video_id, sentence; one sentence for each video.

    Source: MSRVTT_JSFUSION_test.csv as the loader of github.com/ArrowLuo/CLIP4Clip reads it;
    copies with semicolons exist.
    """

    def parse(cells: list[str]) -> CaptionedVideo:
        row = document.named_cells(cells)
        video_id = text_of(row["video_id"], "video_id")
        return CaptionedVideo(video_id, (video_id,), (text_of(row["sentence"], "sentence"),))

    return _merged(document.parsed(document.table(), parse))


def read_captioned_list(document: Document) -> CaptionedVideos:
    """A list of {video, caption}, as JSON, a line each, or by split: {"train": [...], ...}.

    The fields may have other usual names, such as clip_name and golden_caption.
    Source: txt_msrvtt-retrieval.json of github.com/tsujuifu/pytorch_violet, and test sets of
    github.com/OpenGVLab.
    """
    value = document.value
    lists = {None: value} if isinstance(value, list) else value
    videos: CaptionedVideos = []
    fields = ObjectFields({})
    for split, rows in lists.items():

        def parse(row: Any, split: str | None = split) -> CaptionedVideo:
            return _captioned_video(*fields.captioned(row))._replace(split=split)

        if not isinstance(rows, list):
            raise document.error(f"{split} must be a list of {{video, caption}}, got {shown(rows)}")
        name = "entry" if split is None else f"{split} entry"
        videos += _merged(document.parsed(numbered(rows, name=name), parse))
    return videos


def read_word_lists(document: Document) -> CaptionedVideos:
    """MSVD's raw-captions.pkl: captions of each video, each as a list of its words.

    Source: the loader of github.com/ArrowLuo/CLIP4Clip.
    """

    def parse(item: tuple[str, Any]) -> CaptionedVideo:
        name, captions = item
        if not isinstance(captions, list) or not all(
            isinstance(words, list) and all(isinstance(word, str) for word in words)
            for words in captions
        ):
            raise ValueError(f"it must be lists of words, got {shown(captions)}")
        return _captioned_video(name, [" ".join(words) for words in captions])

    rows = ((f"video {name!r}", (name, value)) for name, value in document.value.items())
    return document.parsed(rows, parse)


def _captioned_video(video: Any, captions: Any) -> CaptionedVideo:
    """A video by its path or name.

    Raises:
        ValueError: a text is none, or empty.
    """
    try:
        checked = checked_captions(Row(0, None, (video,), captions))
    except ProblemError as problem:
        raise ValueError(problem.message) from problem
    path = text_of(video, "path")
    name = PurePosixPath(path).name if path.startswith("/") else path
    return CaptionedVideo(path, (name,), checked)


def read_path_captions(document: Document) -> CaptionedVideos:
    """An object {path: caption or [captions]}, such as train_9k_miech.json of SimVTP's authors.

    A path that begins at the root of the machine it was written on counts by its file's name.
    Source: DATA.md of SimVTP.
    """

    def parse(row: Any) -> CaptionedVideo:
        if isinstance(row, ProblemError):
            raise ValueError(row.message)
        return _captioned_video(row.paths[0], row.captions)

    rows = rows_of_json(document.text, ObjectFields({}))
    places = ((f"line {getattr(row, 'line', 1)}", row) for row in rows)
    return _merged(document.parsed(places, parse))


def read_didemo(document: Document) -> CaptionedVideos:
    """DiDeMo: a list of {video, description, times, ...}, one entry for each moment.

    Retrieval is by paragraph: a video's descriptions in their order are one caption. The name of
    a video holds its ending. Source: github.com/LisaAnne/LocalizingMoments, and the loader of
    github.com/ArrowLuo/CLIP4Clip for the paragraphs.
    """

    def parse(moment: Any) -> CaptionedVideo:
        video_id = text_of(field(moment, "video"), "video")
        written = field(moment, "description")
        descriptions = written if isinstance(written, list) else [written]
        captions = tuple(text_of(one, "description") for one in descriptions)
        return CaptionedVideo(video_id, (video_id,), captions)

    return _as_paragraphs(_merged(document.parsed(numbered(document.value), parse)))


def read_activitynet(document: Document) -> CaptionedVideos:
    """ActivityNet Captions: an object {v_ID: {duration, timestamps, sentences}}.

    Retrieval is by paragraph: a video's sentences are one caption. Files are called v_ID or ID.
    Source: train.json and val_1.json as the loader of github.com/ArrowLuo/CLIP4Clip reads them.
    """

    def parse(item: tuple[str, Any]) -> CaptionedVideo:
        video_id = text_of(item[0], "video id")
        sentences = field(item[1], "sentences")
        if not isinstance(sentences, list) or not sentences:
            raise ValueError(f"sentences must be a list of texts, got {shown(sentences)}")
        captions = tuple(text_of(sentence, "sentence") for sentence in sentences)
        return CaptionedVideo(video_id, (video_id, video_id.removeprefix("v_")), captions)

    rows = ((f"video {name!r}", (name, row)) for name, row in document.value.items())
    return _as_paragraphs(document.parsed(rows, parse))


def read_msvd(document: Document) -> CaptionedVideos:
    """MSVD's AllVideoDescriptions.txt: a line `ID_START_END caption` for each; # begins a comment.

    Source: www.cs.utexas.edu/users/ml/clamp/videoDescription.
    """

    def parse(line: str) -> CaptionedVideo | None:
        if line.startswith("#"):
            return None
        found = MSVD_LINE.fullmatch(line.strip())
        if found is None:
            raise ValueError(f"it must be ID_START_END and a caption, got {shown(line)}")
        caption = text_of(found["caption"], "caption")
        return CaptionedVideo(found["video"], (found["video"],), (caption,))

    return _merged(document.parsed(document.lines(), parse))


def read_msvd_table(document: Document) -> CaptionedVideos:
    """MSVD's video_corpus.csv: VideoID, Start, End, ..., Language, Description.

    Rows in other languages than English and without a description are passed over; the files are
    called VideoID_Start_End. Source: "Microsoft Research Video Description Corpus".
    """

    def parse(cells: list[str]) -> CaptionedVideo | None:
        row = document.named_cells(cells)
        if row["Language"].strip() != "English" or not row["Description"].strip():
            return None
        parts = [text_of(row[name], name) for name in ("VideoID", "Start", "End")]
        caption = text_of(row["Description"], "Description")
        return CaptionedVideo("_".join(parts), ("_".join(parts),), (caption,))

    return _merged(document.parsed(document.table(), parse))


def read_lsmdc(document: Document) -> CaptionedVideos:
    """LSMDC: rows of clip, four times and sentence between tabs, without a header.

    A clip may have several rows. Source: LSMDC16_annos_*.csv and
    LSMDC16_challenge_1000_publictect.csv as the loader of github.com/ArrowLuo/CLIP4Clip reads
    them.
    """

    def parse(line: str) -> CaptionedVideo:
        cells = line.split("\t")
        if len(cells) != LSMDC_CELLS:
            raise ValueError(f"it must have {LSMDC_CELLS} cells between tabs, got {shown(line)}")
        video_id = text_of(cells[0], "clip")
        return CaptionedVideo(video_id, (video_id,), (text_of(cells[-1], "sentence"),))

    return _merged(document.parsed(document.lines(), parse))


def _merged(rows: CaptionedVideos) -> CaptionedVideos:
    """One row for each id, with the captions of all its rows."""
    first: dict[str, tuple[str, CaptionedVideo]] = {}
    captions: dict[str, list[str]] = {}
    for place, row in rows:
        first.setdefault(row.video_id, (place, row))
        captions.setdefault(row.video_id, []).extend(row.captions)
    return [
        (place, row._replace(captions=tuple(captions[row.video_id])))
        for place, row in first.values()
    ]


def _as_paragraphs(rows: CaptionedVideos) -> CaptionedVideos:
    return [(place, row._replace(captions=(" ".join(row.captions),))) for place, row in rows]
