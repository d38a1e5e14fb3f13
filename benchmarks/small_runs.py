"""Very small training runs as processes of their own, and what differs between two of them."""

import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch

from simvtp.data import load_manifest, train_tokenizer
from simvtp.data.corpus.rendering import Corpus, render_corpus
from simvtp.training import CheckpointStore

NUM_CLIPS = 16
SIZES: dict[str, Any] = {
    "model.image_size": 32,
    "model.patch_size": 16,
    "model.num_frames": 4,
    "model.width": 16,
    "model.depth": 1,
    "model.num_heads": 2,
    "model.decoder_width": 16,
    "model.decoder_depth": 1,
    "model.decoder_heads": 2,
    "model.text_dropout": 0.1,
    "masking.video_ratio": 0.5,
    "data.frame_stride": 4,
    "data.num_workers": 0,
    "optim.lr_per_256": 0.05,
    "optim.warmup_epochs": 0.5,
    "run.batch_size": 4,
    "run.epochs": 2,
    # The same figures on every machine.
    "run.precision": "fp32",
    "run.log_every": 1,
}
# Saved after nearly every step, evaluated twice on the way.
LENGTH: dict[str, Any] = {
    "run.epochs": 6,
    "run.log_every": 2,
    "run.evaluate_every_epochs": 2,
    "run.checkpoint_minutes": 1e-3,
}
LAST_STEP = 24
_SHARD_ENDS = (0, 3, 9, 10, 16)
_BY_THE_CLOCK = ("clips_per_second", "data_share", "mfu")


class SmallData(NamedTuple):
    """Sixteen clips as files and as four shards of different size, with one vocabulary."""

    corpus: Corpus
    shards: str
    tokenizer: Path

    def command(self, run: Path, source: str, **settings: object) -> list[str]:
        """Settings of a small run.

        Args:
            run: its folder.
            source: `files` or `shards`.
            **settings: others than usual, with two underlines for the dot.
        """
        train = self.corpus.train if source == "files" else self.shards
        data = {"data.train": train, "data.validation": self.corpus.validation}
        values = {**SIZES, **LENGTH, **data, "data.tokenizer": self.tokenizer, "run.out": run}
        values |= {name.replace("__", "."): value for name, value in settings.items()}
        return [f"--{name}={value}" for name, value in values.items()]


def make_data(folder: Path) -> SmallData:
    """Render the clips, pack the shards and train the vocabulary in an existing folder."""
    corpus = render_corpus(
        folder, num_train=NUM_CLIPS, num_validation=6, size=32, num_processes=1, progress=False
    )
    tokenizer = folder / "tokenizer.json"
    train_tokenizer(load_manifest(corpus.train).captions()).save(str(tokenizer))
    return SmallData(corpus, write_shards(corpus, folder / "shards"), tokenizer)


def write_shards(corpus: Corpus, folder: Path) -> str:
    """The training clips as four tar shards of different size; the pattern that names them."""
    folder.mkdir(exist_ok=True)
    rows = [line.split(",", 2) for line in corpus.train.read_text().splitlines()[1:]]
    for number, (start, end) in enumerate(pairwise(_SHARD_ENDS)):
        with tarfile.open(folder / f"{number:03}.tar", "w") as tar:
            for key, path, caption in rows[start:end]:
                text = folder / "caption.txt"
                text.write_text(caption.strip('"'))
                tar.add(corpus.root / path, f"{key}.mp4")
                tar.add(text, f"{key}.txt")
    return f"{folder}/{{000..003}}.tar"


def start(
    command: list[str],
    *,
    cache: Path,
    ranks: int = 1,
    launcher: tuple[str, ...] = (),
    module: str = "simvtp.pipelines.pretrain",
    within: tuple[str, ...] = (),
) -> subprocess.Popen[bytes]:
    """Start a command of the library in a session of its own, under torchrun for several ranks.

    Args:
        command: its arguments.
        cache: folder of the library's cache.
        ranks: processes.
        launcher: further options of torchrun.
        module: the command.
        within: words that go before, such as those that set a limit.
    """
    environment = {**os.environ, "SIMVTP_CACHE": str(cache), "PYTHONUNBUFFERED": "1"}
    words = [*within, sys.executable, "-m"]
    if ranks > 1:
        environment["OMP_NUM_THREADS"] = "1"
        words += ["torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
        words += [*launcher, "-m"]
    return subprocess.Popen(
        [*words, module, *command],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def logged(run: Path) -> list[dict[str, Any]]:
    """Lines of a run's log without the figures that depend on the clock."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: value for k, value in line.items() if k not in _BY_THE_CLOCK} for line in lines]


def differences(run: Path, other: Path) -> list[str]:
    """What differs between two finished runs beside the time they took; nothing is rounded."""
    found = [] if logged(run) == logged(other) else ["metrics.jsonl"]
    stores = [CheckpointStore(folder / "checkpoints") for folder in (run, other)]
    latest, best = ([load(store) for store in stores] for load in (_latest, _best))
    found += [f"latest{place}" for place in _unlike(*latest)]
    found += [f"best{place}" for place in _unlike(*best)]
    for name in ("model/model.safetensors", "model/config.json", "tokenizer.json"):
        if (run / name).read_bytes() != (other / name).read_bytes():
            found.append(name)
    pictures = ("reconstruction.png", "curves.png")
    return found + [name for name in pictures if not (run / name).stat().st_size]


def _latest(store: CheckpointStore) -> Any:
    checkpoint = store.load_latest()
    return None if checkpoint is None else checkpoint.state


def _best(store: CheckpointStore) -> Any:
    checkpoint = store.load_best()
    return None if checkpoint is None else checkpoint.state


def _unlike(mine: Any, theirs: Any, place: str = "") -> Iterator[str]:
    """Places of nested values that are not equal to the last bit."""
    if type(mine) is not type(theirs):
        yield place
    elif isinstance(mine, torch.Tensor):
        if not torch.equal(mine, theirs):
            yield place
    elif isinstance(mine, Mapping) and mine.keys() == theirs.keys():
        for key in mine:
            yield from _unlike(mine[key], theirs[key], f"{place}[{key!r}]")
    elif isinstance(mine, list | tuple) and len(mine) == len(theirs):
        for number, pair in enumerate(zip(mine, theirs, strict=True)):
            yield from _unlike(*pair, f"{place}[{number}]")
    elif mine != theirs:
        yield place
