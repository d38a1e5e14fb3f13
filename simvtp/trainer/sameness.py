"""What must be the same on all ranks of a run, and again when it goes on: settings and samples."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import PurePath
from typing import Any

from tokenizers import Tokenizer

from simvtp.config.flat import flat_settings
from simvtp.data import ClipMixture, ClipRecord, ClipStream, ClipTable
from simvtp.data.datasets.tasks import LabelledClips, QuestionSet
from simvtp.training import require_same

# Where things lie on a machine, and how fast it reads, changes no step.
_OF_A_MACHINE = (
    *("data.train", "data.validation", "data.test", "data.root", "data.tokenizer", "model"),
    *("data.num_workers", "data.shard_cache_gb", "data.cache_gb", "run.out", "run.device"),
)
_CLIPS = "data.train (its clips, their order or what is said of them)"


def digests_of(
    train: Sequence[ClipRecord] | LabelledClips | QuestionSet, tokenizer: Tokenizer | None
) -> dict[str, str]:
    """Digests of what samples are made of, by the name that messages call it.

    Where the clips lie does not count.

    Args:
        train: clips to train on, in their order.
        tokenizer: what makes words of captions, if anything does.
    """
    vocabulary = None if tokenizer is None else tokenizer.to_str()
    return {_CLIPS: _digest_of_clips(train), "the tokenizer": _digest(vocabulary)}


def require_alike(config: Any, digests: Mapping[str, str], *, step: int) -> None:
    """Refuse ranks with other settings, samples or steps behind them; all ranks must call it.

    Args:
        config: settings of the run, a dataclass.
        digests: as of `digests_of`.
        step: steps finished.

    Raises:
        ValueError: something differs; on every rank.
    """
    settings = flat_settings(asdict(config))
    common = {name: value for name, value in settings.items() if name not in _OF_A_MACHINE}
    require_same({**common, **digests, "the step of the latest checkpoint": step})


def require_begun_with(digests: Mapping[str, str], begun: Mapping[str, str]) -> None:
    """Refuse a resume with other samples than those of the run so far.

    Args:
        digests: as of `digests_of`, now.
        begun: those in the checkpoint; what it does not know is not compared.

    Raises:
        ValueError: something differs.
    """
    changed = [name for name, digest in digests.items() if begun.get(name, digest) != digest]
    if changed:
        raise ValueError(
            f"{' and '.join(changed)} must be the same on a resume and have changed; put them "
            "back, or start a new run with another --run.out"
        )


def _digest_of_clips(train: Sequence[ClipRecord] | LabelledClips | QuestionSet) -> str:
    if isinstance(train, ClipTable | ClipMixture | ClipStream):
        return train.digest()
    if isinstance(train, LabelledClips):
        return _digest([_said(train.records), train.labels.tolist(), train.classes])
    if isinstance(train, QuestionSet):
        return _digest([_said(train.records), train.questions, train.answers])
    return _digest(_said(train))


def _said(records: Sequence[ClipRecord]) -> list[Any]:
    return [(each.video_id, PurePath(str(each.path)).name, each.captions) for each in records]


def _digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()
