"""A model folder as an encoder of mteb, for its tasks of text and video (MVEB); `simvtp[mteb]`.

::

    import mteb
    from simvtp.retrieval.mteb_model import MtebModel

    model = MtebModel("runs/mine/model")
    print(mteb.evaluate(model, mteb.get_tasks(tasks=["MSRVTTT2V"])))
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

import torch
from rich.progress import track
from torch import Tensor
from torch.nn import functional

from simvtp.config import RunConfig
from simvtp.data import ClipRecord
from simvtp.data.datasets.quarantine import require_few_bad
from simvtp.extras import needs
from simvtp.model import SimVTP
from simvtp.model_folder import find_model_folder
from simvtp.printing import Console, printable
from simvtp.retrieval.embedding import embed
from simvtp.training import choose_device

if TYPE_CHECKING:
    from datasets import Dataset
    from mteb.models import ModelMeta
    from mteb.types import BatchedInput
    from torch.utils.data import DataLoader

# Clips that come as bytes lie in files while they are read; this many at a time.
_CLIPS_AT_ONCE = 64


class MtebModel:
    """What mteb calls an encoder: texts and videos as unit vectors of one space.

    Videos are decoded by this library, from the middle of each and at the model's own pace, as
    `evaluate` does; mteb's torchcodec is not needed. Where a row has a text and a video, its vector
    is the direction of the sum of both.

    Args:
        source: model folder, hub id or name of a shipped model.
        device: where it runs; "auto" takes CUDA where there is one.
        num_workers: processes that decode; one that crashes or hangs costs only its video. 0
            decodes in this process.
        time_limit: seconds after which a video counts as unreadable.
        max_bad_share: largest share of videos that may be unreadable. Those get the zero vector,
            which is like no query, and are named on stderr.

    Raises:
        ValueError: there is no such model.
    """

    def __init__(
        self,
        source: str | Path,
        *,
        device: Literal["auto", "cpu", "cuda"] = "auto",
        num_workers: int = 0,
        time_limit: float = 60.0,
        max_bad_share: float = 0.1,
    ) -> None:
        self.folder = find_model_folder(source, download_options={})
        chosen = choose_device(RunConfig(device=device))
        self.model = SimVTP.from_pretrained(self.folder).to(chosen).eval()
        self.reading = {"num_workers": num_workers, "time_limit": time_limit}
        self.max_bad_share = max_bad_share

    @cached_property
    def mteb_model_meta(self) -> "ModelMeta":
        """What mteb keeps results under: the folder's name, and a digest of what is in it."""
        with needs("mteb", "a model of mteb"):
            from mteb.models import ModelMeta

        digest = hashlib.sha256()
        for name in ("config.json", "preprocessor.json", "model.safetensors"):
            digest.update((self.folder / name).read_bytes())
        unknown = (
            *("release_date", "languages", "memory_usage_mb", "license", "open_weights"),
            *("public_training_code", "public_training_data", "training_datasets"),
        )
        return ModelMeta(
            loader=None,
            name=f"simvtp/{self.folder.resolve().name}",
            revision=digest.hexdigest()[:16],
            n_parameters=sum(weight.numel() for weight in self.model.parameters()),
            max_tokens=self.model.config.max_text_length,
            embed_dim=self.model.config.width,
            framework=["PyTorch"],
            similarity_fn_name="cosine",  # pyright: ignore[reportArgumentType]
            use_instructions=False,
            modalities=["text", "video"],
            **dict.fromkeys(unknown),  # pyright: ignore[reportArgumentType]
        )

    def encode(
        self, inputs: "DataLoader[BatchedInput]", *, batch_size: int = 32, **options: Any
    ) -> Tensor:
        """Vectors of the rows of a dataset of mteb.

        Args:
            inputs: its dataset has a column `text`, `video` or both; the loader itself is not used.
            batch_size: texts or clips in one forward pass.
            **options: what else mteb says: the task, its split, and `show_progress_bar`.

        Returns:
            `(rows, width)` float32, unit norm, on the CPU.

        Raises:
            ValueError: there is no such column, or the videos are none of `datasets.Video`.
            TooManyBadClips: more videos are unreadable than `max_bad_share`.
        """
        dataset: Any = inputs.dataset
        columns = [name for name in ("text", "video") if name in dataset.features]
        if not columns:
            raise ValueError(
                f"the model takes texts and videos, columns text and video; {_task(options)} has "
                f"{', '.join(dataset.features)}"
            )
        shown = bool(options.get("show_progress_bar", True))
        total = torch.zeros(len(dataset), self.model.config.width)
        if "text" in columns:
            total += self._texts(list(dataset["text"]), batch_size)
        if "video" in columns:
            total += self._videos(dataset.select_columns(["video"]), batch_size, shown, options)
        return functional.normalize(total, dim=-1)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Cosines of all pairs of two sets of vectors, `(first, second)`."""
        return _unit(embeddings1) @ _unit(embeddings2).T

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Cosine of each vector of one set and that of the same row of another, `(rows,)`."""
        return (_unit(embeddings1) * _unit(embeddings2)).sum(dim=-1)

    @torch.no_grad()
    def _texts(self, texts: Sequence[str], batch_size: int) -> Tensor:
        parts = [texts[n : n + batch_size] for n in range(0, len(texts), batch_size)]
        return torch.cat([self.model.encode_text(part).cpu() for part in parts])

    def _videos(
        self, videos: "Dataset", batch_size: int, shown: bool, options: dict[str, Any]
    ) -> Tensor:
        from datasets import Video

        if not isinstance(videos.features["video"], Video):
            raise ValueError(
                f"the column video of {_task(options)} must be of datasets.Video, got "
                f"{videos.features['video']}; cast_column('video', datasets.Video()) makes it so"
            )
        # As they came: files or their bytes, which the library decodes as it did in training.
        encoded = videos.cast_column("video", Video(decode=False))
        vectors = torch.zeros(len(encoded), self.model.config.width)
        unreadable: dict[int, str] = {}
        console = Console(stderr=True)
        starts = range(0, len(encoded), _CLIPS_AT_ONCE)
        for start in track(starts, "Embedding videos", console=console, disable=not shown):
            chunk = encoded[start : start + _CLIPS_AT_ONCE]["video"]
            with _records(chunk) as records:
                for batch in embed(self.model, records, batch_size=batch_size, **self.reading):
                    vectors[start + batch.indices] = batch.features
                    unreadable |= {start + number: reason for number, reason in batch.unreadable}
        for number, reason in unreadable.items():
            console.print(printable(f"video {number} of {_task(options)} is unreadable: {reason}"))
        require_few_bad(
            len(unreadable),
            len(encoded),
            max_bad_share=self.max_bad_share,
            what=f"the vectors for {_task(options)} are",
            option="max_bad_share=",
        )
        return vectors


@contextmanager
def _records(videos: Sequence[dict[str, Any]]) -> Iterator[list[ClipRecord]]:
    """Clips of encoded videos of `datasets`, each a file or its bytes, while the context lasts."""
    with TemporaryDirectory(prefix="simvtp-mteb-") as folder:
        records: list[ClipRecord] = []
        for number, video in enumerate(videos):
            path = Path(video["path"] or "video")
            if video["bytes"] is not None:
                path = Path(folder) / f"{number:06d}"
                path.write_bytes(video["bytes"])
            records.append(ClipRecord(str(number), path, ()))
        yield records


def _unit(vectors: Any) -> Tensor:
    return functional.normalize(torch.atleast_2d(torch.as_tensor(vectors)).float(), dim=-1)


def _task(options: dict[str, Any]) -> str:
    return str(getattr(options.get("task_metadata"), "name", "the task"))
