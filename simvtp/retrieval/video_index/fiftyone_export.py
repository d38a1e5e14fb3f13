"""An index as a data set of FiftyOne on disk (`fiftyone.types.FiftyOneDataset`), for its App.

It is written without FiftyOne; the videos stay where they are. Each video is a sample with its
moments as temporal detections and its vector; each moment has its own vector, start and end.
"""

import hashlib
import io
import json
import math
import mimetypes
import zlib
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from simvtp.data.video.clips import ClipError, ClipInfo, probe
from simvtp.files import publish
from simvtp.retrieval.video_index.index import VideoIndex

# FiftyOne brings older data sets up to date by itself, and refuses newer ones.
_VERSION = "1.0.0"
_COLUMNS = ("root", "file", "start", "end", "caption", "key", "vector")
_FIELDS = "fiftyone.core.fields."
_LABELS = "fiftyone.core.labels."


def export_fiftyone(
    index: VideoIndex,
    folder: Path,
    *,
    tags: Mapping[tuple[int, str], Sequence[str]] | None = None,
    told: Callable[[float], None] = lambda done: None,
) -> list[tuple[str, str]]:
    """Write an index as `metadata.json` and `samples.json`, which FiftyOne imports::

        fiftyone.Dataset.from_dir(folder, fiftyone.types.FiftyOneDataset)

    Args:
        index: the index; all vectors are in memory meanwhile.
        folder: gets the two files.
        tags: of samples, by number of the root and name of the file.
        told: hears what share of the work is done.

    Returns:
        Videos that FiftyOne cannot play, or that cannot be opened any more, and why; they are left
        out.

    Raises:
        ValueError: there are no others.
    """
    rows = index.moments(*_COLUMNS).read_all()
    rows = rows.sort_by([("root", "ascending"), ("file", "ascending"), ("start", "ascending")])
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / "samples.json.partial"
    left_out: list[tuple[str, str]] = []
    separator = "\n"
    with partial.open("w", encoding="utf-8", errors="surrogateescape") as file:
        file.write('{"samples": [')
        for first, part in _by_video(rows):
            root, name = part["root"][0].as_py(), part["file"][0].as_py()
            try:
                path = _file_of(index, root, name)
                sample = _sample(path, probe(path), part)
            except (ClipError, ValueError) as error:
                left_out.append((name, str(error)))
                continue
            sample["tags"] = list((tags or {}).get((root, name), ()))
            file.write(f"{separator}{json.dumps(sample)}")
            separator = ",\n"
            told((first + len(part)) / len(rows))
        file.write("\n]}\n")
    if separator == "\n":
        partial.unlink()
        name, reason = left_out[0] if left_out else (str(index.place), "it holds no videos")
        raise ValueError(f"there is nothing for FiftyOne; {name}: {reason}")
    publish(partial, folder / "samples.json")
    metadata = folder / "metadata.json.partial"
    about = {"model": index.about.model, "model_hash": index.model_hash}
    metadata.write_text(json.dumps(_dataset(about), indent=1) + "\n", "utf-8")
    publish(metadata, folder / "metadata.json")
    return left_out


def _by_video(rows: pa.Table) -> Iterator[tuple[int, pa.Table]]:
    """The moments of each video, and how many come before them."""
    names = list(zip(rows["root"].to_pylist(), rows["file"].to_pylist(), strict=True))
    first = 0
    for place in range(1, len(names) + 1):
        if place == len(names) or names[place] != names[first]:
            yield first, rows.slice(first, place - first)
            first = place


def _file_of(index: VideoIndex, root: int, name: str) -> Path:
    """The video's file, which lies below its root and which FiftyOne takes for a video.

    Raises:
        ValueError: it is none, or lies elsewhere, or is none to FiftyOne.
    """
    path = index.file_below(root, name)
    if not path.is_file():
        raise ValueError("there is no such file; FiftyOne plays files, not what lies in shards")
    # As FiftyOne does; an animated picture in a data set of videos breaks it.
    if not _mime_type(path).startswith("video/"):
        raise ValueError(f"FiftyOne takes no {path.suffix} for a video; encode it anew as .mp4")
    return path.absolute()


def _mime_type(path: Path) -> str:
    return mimetypes.guess_type(path.name)[0] or ""


def _sample(path: Path, info: ClipInfo, moments: pa.Table) -> dict[str, Any]:
    vectors = np.asarray(moments["vector"].combine_chunks().flatten()).reshape(len(moments), -1)
    mean = vectors.mean(axis=0)
    columns = [moments[name].to_pylist() for name in ("start", "end", "caption", "key")]
    caption = columns[2][0]
    identity = hashlib.sha256(str(path).encode("utf-8", "surrogateescape")).hexdigest()
    return {
        "_id": {"$oid": identity[:24]},
        "filepath": str(path),
        "_media_type": "video",
        "_rand": int(identity[24:32], 16) / 2**32,
        "metadata": {
            "_cls": "VideoMetadata",
            "size_bytes": path.stat().st_size,
            "mime_type": _mime_type(path),
            "frame_width": info.width,
            "frame_height": info.height,
            "frame_rate": info.frames_per_second,
            "total_frame_count": info.num_frames,
            "duration": info.duration,
            "encoding_str": info.codec,
        },
        "caption": caption,
        "embedding": _vector(mean / max(float(np.linalg.norm(mean)), 1e-12)),
        "moments": {
            "_cls": "TemporalDetections",
            "detections": [
                {
                    "_id": {"$oid": hashlib.sha256(key.encode()).hexdigest()[:24]},
                    "_cls": "TemporalDetection",
                    "tags": [],
                    "label": said or "moment",
                    "support": _frames(start, end, info),
                    "start": start,
                    "end": end,
                    "embedding": _vector(vector),
                }
                for start, end, said, key, vector in zip(*columns, vectors, strict=True)
            ],
        },
    }


def _frames(start: float, end: float, info: ClipInfo) -> list[int]:
    """Numbers of the first and the last frame of a stretch of seconds, from 1 on."""
    rate, last = info.frames_per_second, max(1, info.num_frames)
    first = min(last, 1 + math.floor(start * rate + 1e-6))
    return [first, min(last, max(first, math.ceil(end * rate - 1e-6)))]


def _vector(values: np.ndarray) -> dict[str, Any]:
    """A vector as FiftyOne keeps one: numpy's own format, compressed."""
    file = io.BytesIO()
    np.save(file, values.astype(np.float32), allow_pickle=False)
    text = b64encode(zlib.compress(file.getvalue())).decode()
    return {"$binary": {"base64": text, "subType": "00"}}


def _dataset(info: dict[str, Any]) -> dict[str, Any]:
    moment = [
        *(_field("id", "ObjectIdField", db_field="_id"), _field("tags", "ListField", of="String")),
        *(_field("label", "StringField"), _field("support", "FrameSupportField", of="Int")),
        *(_field("confidence", "FloatField"), _field("embedding", "VectorField")),
        *(_field("start", "FloatField"), _field("end", "FloatField")),
    ]
    detections = _field("detections", "ListField", of="EmbeddedDocument", fields=moment)
    detections["embedded_doc_type"] = f"{_LABELS}TemporalDetection"
    numbers = {
        **dict.fromkeys(("size_bytes", "frame_width", "frame_height"), "IntField"),
        **{"total_frame_count": "IntField", "frame_rate": "FloatField", "duration": "FloatField"},
        **{"mime_type": "StringField", "encoding_str": "StringField"},
    }
    video = [_field(name, kind) for name, kind in numbers.items()]
    return {
        "version": _VERSION,
        "media_type": "video",
        "info": info,
        "sample_fields": [
            _field("id", "ObjectIdField", db_field="_id"),
            *(_field("filepath", "StringField"), _field("tags", "ListField", of="String")),
            _document("metadata", "fiftyone.core.metadata.VideoMetadata", video),
            *(_field("_media_type", "StringField"), _field("_rand", "FloatField")),
            *(_field("_dataset_id", "ObjectIdField"), _field("created_at", "DateTimeField")),
            _field("last_modified_at", "DateTimeField"),
            *(_field("caption", "StringField"), _field("embedding", "VectorField")),
            _document("moments", f"{_LABELS}TemporalDetections", [detections]),
        ],
        "frame_fields": [
            _field("id", "ObjectIdField", db_field="_id"),
            *(_field("frame_number", "FrameNumberField"), _field("_sample_id", "ObjectIdField")),
            *(_field("_dataset_id", "ObjectIdField"), _field("created_at", "DateTimeField")),
            _field("last_modified_at", "DateTimeField"),
        ],
    }


def _field(
    name: str,
    kind: str,
    *,
    of: str | None = None,
    fields: Sequence[dict[str, Any]] = (),
    db_field: str | None = None,
) -> dict[str, Any]:
    """A field as FiftyOne describes one."""
    return {
        "name": name,
        "ftype": f"{_FIELDS}{kind}",
        "embedded_doc_type": None,
        "subfield": None if of is None else f"{_FIELDS}{of}Field",
        "fields": list(fields),
        "db_field": db_field or name,
    }


def _document(name: str, kind: str, fields: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return _field(name, "EmbeddedDocumentField", fields=fields) | {"embedded_doc_type": kind}
