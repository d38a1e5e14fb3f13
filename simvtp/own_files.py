"""What a model does with video files that are named in Python: embed them, rank them by a text."""

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, overload

import torch
from torch import Tensor

from simvtp.config.checks import require_at_least
from simvtp.data.captions import caption_list
from simvtp.data.tokenizer import is_mostly_unknown

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    # At run time this would import PyAV and torchvision for models that open no file.
    from simvtp.clip_features import ClipEmbedder
    from simvtp.data.listed_files import File, LeftOut

    class PairEmbedder(ClipEmbedder, Protocol):
        """A model that embeds clips and captions."""

        def encode_text(self, text: Sequence[str]) -> Tensor:
            """Unit-norm features of captions, `(batch, width)`."""
            ...


class RankedFile(NamedTuple):
    """A file, as it was named, and the cosine between it and a query."""

    file: "File"
    score: float


class FileMethods:
    """Methods of a model that take video files."""

    def embed_files(
        self: "ClipEmbedder",
        files: "Sequence[File]",
        *,
        clips: int = 1,
        batch_size: int = 16,
        num_workers: int | None = None,
        left_out: "LeftOut | None" = None,
    ) -> Tensor:
        """Embed video files, in order, as evaluation embeds them; the model goes into that mode.

        Where there are many, a bar shows how far it is. For more files than fit into an evening
        there is `python -m simvtp.pipelines.embed`, which a stop costs nothing.

        Args:
            files: paths of whatever FFmpeg decodes.
            clips: clips over the length of each video whose features are averaged; 1: the middle.
            batch_size: clips in one forward pass.
            num_workers: processes that decode; one that crashes or hangs costs only its file. 0
                decodes in this process; None: a process from 16 files on.
            left_out: a dictionary that gets the files that cannot be read, and why; they have no
                row. Without it they are refused.

        Returns:
            `(files, width)` float32, unit norm, on the CPU.

        Raises:
            TypeError: `files` is a path and no list.
            ValueError: there is no file, one cannot be read and there is no `left_out`, or a
                feature is not finite.
        """
        # See above.
        from simvtp.clip_features import features_of_files

        settings = {"clips": clips, "batch_size": batch_size, "num_workers": num_workers}
        return features_of_files(self, files, left_out=left_out, **settings).features

    @overload
    def rank(
        self: "PairEmbedder", query: str, files: "Sequence[File]", **settings: Any
    ) -> list[RankedFile]: ...
    @overload
    def rank(
        self: "PairEmbedder",
        query: list[str] | tuple[str, ...],
        files: "Sequence[File]",
        **settings: Any,
    ) -> list[list[RankedFile]]: ...
    def rank(
        self: "PairEmbedder",
        query: str | Sequence[str],
        files: "Sequence[File]",
        *,
        features: Tensor | None = None,
        top: int | None = None,
        **settings: Any,
    ) -> list[RankedFile] | list[list[RankedFile]]:
        """Put video files in the order of how well a text describes them, best first.

        Args:
            query: the text, or several.
            files: paths, as for `embed_files`.
            features: what `embed_files(files)` gave, so that later queries open no file.
            top: how many of the best to give; None: all.
            **settings: as for `embed_files`.

        Returns:
            `(file, score)` of each file, the score being the cosine; for several texts a list of
            such lists. Of equal scores the earlier file comes first.

        Raises:
            TypeError, ValueError: as for `embed_files` and `encode_text`; or `features` has not
                one row for each file.
        """
        # See above.
        from simvtp.clip_features import features_of_files

        queries = caption_list(query)
        if top is not None:
            require_at_least(1, top=top)
        _warn_of_unknown(getattr(self, "tokenizer", None), queries)
        self.eval()
        with torch.no_grad():
            text = self.encode_text(queries).cpu()
        numbers = range(len(files))
        if features is not None and settings:
            raise ValueError(
                f"features are embedded already: leave out {', '.join(settings)}, or features="
            )
        if features is None:
            features, index, _ = features_of_files(self, files, **settings)
            numbers = index.tolist()
        if len(features) != len(numbers):
            raise ValueError(
                f"features must be those of the {len(files)} files, a row for each, got "
                f"{len(features)} rows; give only the files that embed_files did not leave out"
            )
        ranked = [
            [RankedFile(files[numbers[place]], row[place]) for place in _order(row)[:top]]
            for row in (text @ features.T).tolist()
        ]
        return ranked[0] if isinstance(query, str) else ranked


def _warn_of_unknown(tokenizer: "Tokenizer | None", queries: Sequence[str]) -> None:
    unknown = [q for q in queries if tokenizer is not None and is_mostly_unknown(tokenizer, q)]
    if unknown:
        warnings.warn(
            f"{unknown[0]!r:.80} is mostly words that the model's vocabulary lacks: scores mean "
            "little; a model knows the words it was pre-trained with",
            stacklevel=3,
        )


def _order(scores: Sequence[float]) -> list[int]:
    return sorted(range(len(scores)), key=lambda place: -scores[place])
