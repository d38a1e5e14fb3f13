"""What the routes share: captions and videos as rows, computed with those of other requests."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np

from export.runtime.captions import MAX_CHARACTERS, encode_captions
from simvtp.pipelines.serve.batching import Batcher, Turn
from simvtp.pipelines.serve.inputs.bodies import VideoInput
from simvtp.pipelines.serve.inputs.clips import Decoder, VideoFile
from simvtp.pipelines.serve.inputs.fetching import Fetcher
from simvtp.pipelines.serve.metrics import Metrics
from simvtp.pipelines.serve.models.served_model import Pair, ServedModel
from simvtp.pipelines.serve.refusals import Refusal
from simvtp.pipelines.serve.settings import ServeSettings, Task
from simvtp.pipelines.unknown_words import unknown_note

_FETCHES = 4


class Caption(NamedTuple):
    """A caption of a request: the part of the request that it was, and the text."""

    param: str
    text: str


class Computed(NamedTuple):
    """Rows in the order of a request, the tokens that they took, a note on unknown words."""

    rows: list[Any]
    num_tokens: int
    note: str | None


class Service:
    """Computes what requests ask for; made and closed within a running loop.

    Args:
        model: what is served.
        name: what requests call it.
        settings: batches, queues and limits.
        fetcher: fetches videos that are named by URLs.
        metrics: where it counts.
    """

    def __init__(
        self,
        model: ServedModel,
        *,
        name: str,
        settings: ServeSettings,
        fetcher: Fetcher,
        metrics: Metrics,
    ) -> None:
        self.model = model
        self.name = name
        self.settings = settings
        self._fetcher = fetcher
        self._threads = ThreadPoolExecutor(_FETCHES, thread_name_prefix="fetch")
        self._turn = Turn()
        self._decoder = Decoder(model, settings, metrics)
        self._folder = TemporaryDirectory(prefix="simvtp-serve-", ignore_cleanup_errors=True)
        computed: dict[Task, Callable[[Sequence[Any]], np.ndarray]] = {
            "text": model.encode_text,
            "video": model.encode_video,
            "match": model.match,
        }
        self._batchers: dict[Task, Batcher[Any, Any]] = {
            task: Batcher(
                computed[task],
                task=task,
                turn=self._turn,
                max_batch=most,
                max_wait=settings.max_wait,
                queue=settings.queue,
                metrics=metrics,
            )
            for task, most in model.tasks.items()
        }

    @property
    def is_stuck(self) -> bool:
        """Whether a forward pass takes longer than any request may."""
        return self._turn.seconds > self.settings.request_seconds

    async def close(self) -> None:
        """Finish what waits, and let go of processes, threads and files."""
        for batcher in self._batchers.values():
            await batcher.close()
        self._turn.thread.shutdown()
        self._threads.shutdown(wait=False, cancel_futures=True)
        await asyncio.to_thread(self._decoder.close)
        self._folder.cleanup()

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """A place for the videos of a request, which is removed."""
        with TemporaryDirectory(dir=self._folder.name, ignore_cleanup_errors=True) as place:
            yield Path(place)

    def check_count(self, count: int, param: str) -> None:
        """Refuse a request of no or too many inputs."""
        most = self.settings.max_inputs
        if count < 1:
            raise Refusal(f"there is no {param!r}; give from 1 to {most} of them", param=param)
        if count > most:
            raise Refusal(
                f"{param} must be at most {most} in one request, got {count}; split longer lists",
                param=param,
            )

    async def save(self, video: VideoInput, *, param: str, place: Path) -> VideoFile:
        """Bring a video into a file.

        Args:
            video: its bytes, or its URL.
            param: the part of the request that it is.
            place: a folder of the request.

        Raises:
            Refusal: it is no base64, or cannot be fetched.
        """
        name = "video" if video.video_url is None else "video_url"
        sent = VideoFile(f"{param}.{name}", place / param)
        try:
            if video.video_url is None:
                await asyncio.to_thread(video.save, sent.file)
            else:
                work = (self._fetcher.fetch, video.video_url, sent.file)
                await asyncio.get_running_loop().run_in_executor(self._threads, *work)
        except Refusal as refusal:
            raise refusal.about(sent.param) from refusal.__cause__
        return sent

    async def embed(self, inputs: Sequence[Caption | VideoFile]) -> Computed:
        """Embeddings `(width,)` float32 of captions and videos.

        Raises:
            Refusal: one cannot be used, or there is no room.
        """
        captions = [one for one in inputs if isinstance(one, Caption)]
        videos = [one for one in inputs if isinstance(one, VideoFile)]
        token_ids, clips = await self._read(captions, videos)
        texts, shown = await asyncio.gather(
            self._compute("text", token_ids), self._compute("video", clips)
        )
        of_text, of_video = iter(texts), iter(shown)
        rows = [next(of_text if isinstance(one, Caption) else of_video) for one in inputs]
        return Computed(rows, self._num_tokens(token_ids, len(clips)), await self._note(captions))

    async def match(self, pairs: Sequence[tuple[Caption, VideoFile]]) -> Computed:
        """Probability that each pair belongs together; a file of several pairs is read once.

        Raises:
            Refusal: a caption or a video cannot be used, or there is no room.
        """
        self._require("match")
        videos = list(dict.fromkeys(video for _, video in pairs))
        captions = [caption for caption, _ in pairs]
        token_ids, clips = await self._read(captions, videos)
        clip_of = dict(zip(videos, clips, strict=True))
        rows = [Pair(clip_of[video], ids) for (_, video), ids in zip(pairs, token_ids, strict=True)]
        scores = await self._compute("match", rows)
        num_tokens = self._num_tokens(token_ids, len(rows))
        return Computed([float(score) for score in scores], num_tokens, await self._note(captions))

    async def warm_up(self) -> None:
        """Compute a row of each task, so that no request waits for a graph to be opened."""
        shape = (self.model.cut["num_frames"], 3, *[self.model.cut["image_size"]] * 2)
        clip = np.zeros(shape, dtype=np.uint8)
        text = "text" in self.model.tasks or "match" in self.model.tasks
        ids = self._token_ids(Caption("", "a")) if text else np.zeros(0, dtype=np.int64)
        rows: dict[Task, Any] = {"text": ids, "video": clip, "match": Pair(clip, ids)}
        for task, batcher in self._batchers.items():
            await batcher.compute([rows[task]])
        await self._decoder.warm_up()

    async def _read(
        self, captions: Sequence[Caption], videos: Sequence[VideoFile]
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        # Captions first: what is wrong with them is known before any video is decoded.
        token_ids = await asyncio.to_thread(lambda: [self._token_ids(one) for one in captions])
        return token_ids, await self._decoder.clips(videos)

    async def _compute(self, task: Task, rows: Sequence[Any]) -> list[Any]:
        if not rows:
            return []
        self._require(task)
        return await self._batchers[task].compute(rows)

    def _require(self, task: Task) -> None:
        if task not in self._batchers:
            raise Refusal(
                f"this server does {', '.join(self._batchers)} and not {task}: it was started so, "
                "or the model was exported without that graph",
                status=404,
                code="task_not_served",
            )

    def _token_ids(self, caption: Caption) -> np.ndarray:
        text, param, most = caption.text, caption.param, self.model.max_tokens
        if len(text) > MAX_CHARACTERS:
            message = (
                f"a text may have {MAX_CHARACTERS:,} characters, got {len(text):,}; shorten it"
            )
            raise Refusal(message, param=param)
        try:
            tokens = encode_captions(
                self.model.tokenizer, [text], max_length=self.model.max_text_length
            )
        except ValueError as error:
            message = "a text must hold at least one word, got none; give one, or leave it out"
            raise Refusal(message, param=param) from error
        ids = tokens.token_ids[0]
        if most is not None and len(ids) > most:
            raise Refusal(
                f"a text may have {most} tokens here, got {len(ids)}; shorten it, or export the "
                "model for longer ones (--tokens)",
                param=param,
            )
        return ids

    async def _note(self, captions: Sequence[Caption]) -> str | None:
        texts = [one.text for one in captions]
        return await asyncio.to_thread(unknown_note, self.model.tokenizer, texts, what="texts")

    def _num_tokens(self, token_ids: Sequence[np.ndarray], num_clips: int) -> int:
        return sum(map(len, token_ids)) + num_clips * self.model.num_video_tokens
