"""A part of a file, such as a video in a tar shard, served in ranges as a file is."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from fastapi.responses import Response, StreamingResponse

from simvtp.data.clip_table import ByteSpan

_CHUNK = 1 << 18
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


def file_part(
    path: Path, span: ByteSpan, *, wanted: str | None, media_type: str, headers: Mapping[str, str]
) -> Response:
    """The bytes of a span, or those that a browser wants of it.

    Args:
        path: the file.
        span: where the part lies in it.
        wanted: the request's `Range`, counted from the start of the part; others than one range
            get the whole part.
        media_type: what it is.
        headers: to send with it.
    """
    told = {**headers, "Accept-Ranges": "bytes"}
    found = _RANGE.fullmatch(wanted or "")
    if found is None or not any(found.groups()):
        told["Content-Length"] = str(span.size)
        return StreamingResponse(_pieces(path, *span), headers=told, media_type=media_type)
    first, last = (None if end == "" else int(end) for end in found.groups())
    if first is None:
        # The last so many bytes.
        first, last = max(0, span.size - (last or 0)), None
    last = span.size - 1 if last is None else min(last, span.size - 1)
    if first > last:
        return Response(status_code=416, headers={"Content-Range": f"bytes */{span.size}"})
    told["Content-Range"] = f"bytes {first}-{last}/{span.size}"
    told["Content-Length"] = str(last - first + 1)
    pieces = _pieces(path, span.offset + first, last - first + 1)
    return StreamingResponse(pieces, status_code=206, headers=told, media_type=media_type)


def _pieces(path: Path, offset: int, size: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(offset)
        while size and (piece := file.read(min(size, _CHUNK))):
            size -= len(piece)
            yield piece
