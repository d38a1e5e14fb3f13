"""Optimiser and run: what every kind of training is told."""

import re
from dataclasses import dataclass
from typing import Literal

from simvtp.config.checks import (
    require,
    require_at_least,
    require_positive,
    require_range,
    require_share,
    require_sound,
)

# A step at base size is ten thousand events, and a trace of a million is slow to look at.
_MOST_PROFILED = 100


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW and its schedule (paper recipe: section 4 of the released script's settings).

    Args:
        lr_per_256: peak learning rate for 256 clips a step; scaled with the batch.
        min_lr_per_256: learning rate at the end of the cosine, scaled alike.
        warmup_epochs: epochs of linear warm-up from 0.
        betas: AdamW's averaging factors.
        eps: AdamW's epsilon.
        weight_decay: decay of matrices; biases, norms and the mask token are never decayed.
        clip_norm: largest gradient norm; None does not clip.
    """

    lr_per_256: float = 1.5e-4
    min_lr_per_256: float = 1e-5
    warmup_epochs: float = 40.0
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.05
    clip_norm: float | None = 1.0

    def __post_init__(self) -> None:
        require_sound(self)
        require_positive(self, "lr_per_256", "eps")
        require_range(self, 0, 10, "lr_per_256", "min_lr_per_256", "weight_decay")
        require_range(self, 0, 1e6, "warmup_epochs")
        for beta in self.betas:
            require_share("betas", beta, below_one=True)
        require(
            self.clip_norm is None or self.clip_norm > 0,
            f"clip_norm must be above 0, or null to switch clipping off, got {self.clip_norm}",
        )


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Length, batch, precision and bookkeeping of a run.

    Args:
        out: folder of the run.
        epochs: passes over the training clips.
        batch_size: clips in one micro-batch of one process.
        batch_tokens: instead, most tokens in one: it holds as many clips as fit, each counted as
            its visible tubelets and the longest caption of its source; null is batch_size
            (pre-training).
        accumulate: micro-batches summed before an optimiser step.
        seed: seed of everything random.
        device: cpu, cuda, or auto for CUDA when there is a device.
        precision: number format of the matrix products; auto is bf16 on CUDA and on CPUs that
            multiply it natively (AMX, AVX512-BF16), else fp32.
        compile: run the transformer blocks through torch.compile; the first step takes a minute.
            `graphs` also captures them as CUDA graphs, for batches so small that the host is the
            limit; it needs a CUDA device and bucket_tokens.
        bucket_tokens: fill the tokens of a step up to the next multiple, so that few totals occur,
            each of which is captured once; nothing else sees the filling. 0 fills nothing up.
        recompute: keep all activations for the backward pass, or one per block and compute the
            others again (a third more work, far less memory).
        parallel: several processes hold whole copies of the model (DDP) or shares of it (FSDP2).
        checkpoint: rank 0 gathers and writes the whole state, or each process its share of it (for
            FSDP2, where the whole does not fit the memory of one machine).
        checkpoint_minutes: minutes between two saves of the latest state.
        async_save: write a checkpoint while training goes on, from a copy in the host's memory.
        keep_every_epochs: epochs between two checkpoints that are kept; 0 keeps only the latest.
        evaluate_every_epochs: epochs between two held-out evaluations; 0 only at the end.
        log_every: optimiser steps between two lines of the log; null is 10, or 1 in a run of fewer
            than 20 steps.
        max_bad_steps: non-finite steps in a row after which the run stops.
        profile: steps that torch's profiler records, the first and the last, such as 10:15 (in a
            YAML file with quotes); a trace and a table go to RUN/profile.
        loggers: where else the figures go, e.g. [wandb]; each has its own environment variables.
    """

    out: str = "runs/pretrain"
    epochs: int = 200
    batch_size: int = 16
    batch_tokens: int | None = None
    accumulate: int = 1
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    compile: bool | Literal["graphs"] = False
    bucket_tokens: int = 0
    recompute: Literal["none", "block"] = "none"
    parallel: Literal["ddp", "fsdp"] = "ddp"
    checkpoint: Literal["whole", "sharded"] = "whole"
    checkpoint_minutes: float = 10.0
    async_save: bool = True
    keep_every_epochs: int = 0
    evaluate_every_epochs: int = 0
    log_every: int | None = None
    max_bad_steps: int = 5
    profile: str | None = None
    loggers: tuple[Literal["wandb", "mlflow", "trackio"], ...] = ()

    def __post_init__(self) -> None:
        require_sound(self)
        require_positive(
            self,
            *("epochs", "batch_size", "accumulate"),
            *("checkpoint_minutes", "max_bad_steps"),
        )
        require_at_least(1, log_every=self.log_every, batch_tokens=self.batch_tokens)
        for name in ("keep_every_epochs", "evaluate_every_epochs", "seed", "bucket_tokens"):
            value = getattr(self, name)
            require(value >= 0, f"{name} must be >= 0, got {value}")
        require(
            self.checkpoint == "whole" or self.parallel == "fsdp",
            "checkpoint sharded needs parallel fsdp, with which each process has a share, got "
            f"parallel {self.parallel}; set run.parallel to fsdp or run.checkpoint to whole",
        )
        _ = self.profiled_steps
        require(
            self.compile in (False, True, "graphs"),
            f"compile must be true, false or graphs, got {self.compile!r:.80}",
        )
        if self.compile == "graphs":
            self._check_graphs()

    def _check_graphs(self) -> None:
        require(
            self.bucket_tokens > 0,
            "compile graphs captures a graph for each number of tokens, and bucket_tokens is 0, so "
            "that each step has another; set bucket_tokens, to 256 for a start",
        )
        require(
            self.batch_tokens is None,
            "compile graphs needs as many clips in each step, and batch_tokens brings as many as "
            f"fit, got {self.batch_tokens}; set batch_size in its place",
        )
        require(
            self.recompute == "none" and self.parallel == "ddp",
            "compile graphs runs blocks that are kept whole: set recompute to none and parallel to "
            f"ddp, got {self.recompute} and {self.parallel}, or compile to true",
        )

    @property
    def profiled_steps(self) -> range:
        """Steps, counted from 1, that the profiler records; none where `profile` is None.

        Raises:
            ValueError: `profile` is no first and last step, or they are too many for one trace.
        """
        if self.profile is None:
            return range(0)
        parts = re.fullmatch(r"(\d{1,12}):(\d{1,12})", self.profile)
        first, last = map(int, parts.groups()) if parts else (0, 0)
        require(
            1 <= first <= last < first + _MOST_PROFILED,
            f"profile must be the first and the last of at most {_MOST_PROFILED} steps, such as "
            f"10:15, got {self.profile!r:.80}",
        )
        return range(first, last + 1)
