"""Clips and images that a browser or a program sends as queries: embedded, and thrown away."""

import secrets
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from starlette.requests import Request
from torch import Tensor

from simvtp.data import ClipRecord
from simvtp.model import SimVTP
from simvtp.retrieval.embedding import embed

MOST_UPLOAD_BYTES = 256 << 20
UPLOAD_SECONDS = 30.0
_MOST_KEPT = 256


class UploadTooLargeError(ValueError):
    """More was sent than is taken."""


class Uploads:
    """Features of the latest uploads, by random names; the files themselves are not kept.

    Args:
        model: embeds them.
    """

    def __init__(self, model: SimVTP) -> None:
        self.model = model
        self._features: OrderedDict[str, Tensor] = OrderedDict()

    def take(self, file: Path) -> str:
        """Embed the middle clip of a video, or an image, decoded in a process of its own.

        Returns:
            the name under which `features` has it.

        Raises:
            ValueError: it cannot be read, in time and within the decoder's limits.
        """
        record = ClipRecord("upload", str(file), ())
        batches = embed(self.model, [record], num_workers=1, time_limit=UPLOAD_SECONDS)
        (batch,) = batches
        for _, reason in batch.unreadable:
            reason = reason.removeprefix(f"cannot read a clip of {file}: ")
            raise ValueError(f"the upload cannot be read: {reason}")
        name = secrets.token_urlsafe(12)
        self._features[name] = batch.features[0]
        while len(self._features) > _MOST_KEPT:
            self._features.popitem(last=False)
        return name

    def features(self, name: str) -> Tensor:
        """Feature of an upload, `(width,)`, unit norm.

        Raises:
            ValueError: there is none of the name, or no more.
        """
        if name not in self._features:
            raise ValueError("the upload of this search is no longer there; upload it again")
        return self._features[name]


@contextmanager
def temporary_file() -> Iterator[Path]:
    """A name for what is being uploaded, in a folder that is removed."""
    with TemporaryDirectory(prefix="simvtp-upload-") as folder:
        yield Path(folder) / "upload"


async def receive_file(request: Request, file: Path) -> None:
    """Write the body of a request to a file.

    Raises:
        UploadTooLargeError: it is more than is taken.
        ValueError: nothing was sent, or a form.
    """
    if request.headers.get("content-type", "").startswith("multipart/"):
        raise ValueError("send the file itself as the body, as curl --data-binary @FILE does")
    _check_size(int(request.headers.get("content-length", 0)))
    size = 0
    with file.open("wb") as opened:
        async for part in request.stream():
            size += len(part)
            _check_size(size)
            opened.write(part)
    if not size:
        raise ValueError("the upload is empty")


def _check_size(num_bytes: int) -> None:
    if num_bytes > MOST_UPLOAD_BYTES:
        raise UploadTooLargeError(f"an upload may have {MOST_UPLOAD_BYTES >> 20} MiB")
