"""How a model is served over HTTP, and what a request may cost."""

from dataclasses import dataclass
from typing import Literal

from simvtp.config.checks import require, require_at_least, require_positive
from simvtp.decoding.limits import Limits

Task = Literal["text", "video", "match"]
TASKS: tuple[Task, ...] = ("text", "video", "match")
_MIB = 1 << 20
_SHORTEST_TOKEN = 16


@dataclass(frozen=True, kw_only=True)
class ServeSettings:
    """Batches, queues and limits of a server.

    Args:
        max_batch: rows of one forward pass at most.
        max_wait: seconds that a row waits for others to share its pass.
        queue: rows that wait, of each of text, video and match, and videos that wait to be decoded;
            beyond that a request is refused with the status 503.
        workers: processes that decode videos.
        max_body: bytes of a request's body.
        max_bodies: bytes of all bodies that are held at a time.
        max_requests: requests that are under way at a time.
        max_inputs: texts and videos, or pairs, of one request.
        request_seconds: a request takes no longer, from its first byte to its last.
        decode_seconds: a video takes no longer to decode.
        token: what a request's `Authorization: Bearer` must say; None asks for nothing.

    Raises:
        ValueError: a value is out of its range, or two do not go together.
    """

    max_batch: int = 16
    max_wait: float = 0.002
    queue: int = 128
    workers: int = 1
    max_body: int = 64 * _MIB
    max_bodies: int = 256 * _MIB
    max_requests: int = 64
    max_inputs: int = 64
    request_seconds: float = 60.0
    decode_seconds: float = 10.0
    token: str | None = None

    def __post_init__(self) -> None:
        require_at_least(1, max_batch=self.max_batch, workers=self.workers, max_body=self.max_body)
        require_at_least(1, max_requests=self.max_requests, max_inputs=self.max_inputs)
        require_at_least(0, max_wait=self.max_wait)
        require_positive(self, "request_seconds", "decode_seconds")
        require(
            self.queue >= self.max_inputs,
            f"queue must hold a whole request of max_inputs={self.max_inputs}, got {self.queue}; "
            "make the queue longer or a request's inputs fewer",
        )
        require(
            self.max_bodies >= self.max_body,
            f"max_bodies must be at least max_body ({self.max_body:,} bytes), got "
            f"{self.max_bodies:,}; no request of that size would ever be taken",
        )
        if self.token is not None:
            plain = self.token.isascii() and self.token.isprintable() and " " not in self.token
            require(
                plain and len(self.token) >= _SHORTEST_TOKEN,
                f"the token must be at least {_SHORTEST_TOKEN} printable ASCII characters without "
                f"spaces, got {len(self.token)} characters; make one with "
                "python -c 'import secrets; print(secrets.token_urlsafe())'",
            )

    @property
    def video_limits(self) -> Limits:
        """What a video may have: as behind Triton, beyond any clip and far below a server's end."""
        return Limits(
            num_bytes=self.max_body, num_frames=1 << 17, num_pixels=1 << 24, num_decoded=1 << 32
        )
