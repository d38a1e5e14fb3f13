"""Settings of fine-tuning, beside those that it shares with pre-training."""

from dataclasses import dataclass
from os.path import realpath
from typing import Any, Literal

from simvtp.config import OptimConfig, RunConfig
from simvtp.config.checks import require_range, require_sound
from simvtp.data.annotations import Missing

TaskName = Literal["retrieval", "classification", "qa"]


@dataclass(frozen=True, kw_only=True)
class TaskDataConfig:
    """Annotated clips, in the format they were published in or as any table of captions.

    Args:
        train: annotations to train on.
        validation: annotations that decide when to stop and which state is kept; without them a
            share of the training videos is kept out for it.
        test: annotations that the kept state is measured on once, at the end.
        train_split: part of `train` to take, where it holds several: one of the benchmark's own
            or a file that lists videos, such as MSR-VTT's train_9k; not for questions.
        validation_split: the same of `validation`.
        test_split: the same of `test`.
        root: folder that the videos' paths are relative to.
        columns: columns of a table of captions that count, such as `path=file,caption=text`
            (retrieval); null finds those with the usual names.
        follow_links: clips of a table or a folder may be links that lead out of the root
            (retrieval).
        missing: whether videos without a file are refused or left out, counted and named.
        validation_share: share of the training videos kept out where there is no validation.
        label_share: share of the other training videos that is used, chosen by the seed; of each
            class at least one.
        num_answers: most frequent training answers that an open question may be answered with.
        num_workers: processes that decode clips.
        max_bad_share: the run stops when more than this share of the clips tried is unreadable.
        clip_seconds: seconds that reading one clip may take before it counts as unreadable.
        test_clips: clips over the length of each test video whose results are averaged.
        test_crops: crops of each of these: 1 in the middle, or 3 along the longer side.
    """

    train: str = ""
    validation: str | None = None
    test: str | None = None
    train_split: str | None = None
    validation_split: str | None = None
    test_split: str | None = None
    root: str | None = None
    columns: str | None = None
    follow_links: bool = False
    missing: Missing = "refuse"
    validation_share: float = 0.1
    label_share: float = 1.0
    num_answers: int = 1000
    num_workers: int = 1
    max_bad_share: float = 0.1
    clip_seconds: float = 60.0
    test_clips: int = 1
    test_crops: int = 1

    def __post_init__(self) -> None:
        require_sound(self)
        require_range(self, 0, 1, "max_bad_share", "label_share")
        require_range(self, 0, 0.9, "validation_share")
        require_range(self, 1, 1000, "test_clips")
        if self.label_share == 0 or self.test_crops not in (1, 3):
            raise ValueError(
                f"label_share must be above 0 and test_crops 1 or 3, got {self.label_share} and "
                f"{self.test_crops}"
            )
        seen = ((self.train, self.train_split), (self.validation, self.validation_split))
        # The same file may be written in other ways, or be a link.
        places = [(realpath(file), split) for file, split in seen if file is not None]
        if self.test is not None and (realpath(self.test), self.test_split) in places:
            raise ValueError(
                f"data.test is {self.test}, which is also trained on or chosen by: its figures "
                "would be too good; name other annotations, another test_split, or none"
            )


@dataclass(frozen=True, kw_only=True)
class TuneConfig:
    """How the pre-trained model is used and kept from forgetting.

    Args:
        weights: start from the model's weights, or from random ones of its sizes.
        train_parts: everything; the new linear layer over the frozen encoder; or that layer over
            features computed once (classification only, seconds instead of hours).
        freeze: names of parts or layers that stay as they are, such as `[text_embedding]` or
            `[video_embedding, blocks.0, blocks.1]`.
        lora_rank: rank of the updates (LoRA) that linear layers learn in the place of their
            weights, all others being frozen but for the heads; merged in the saved model; 0 for
            none. Needs `simvtp[lora]`.
        lora_parts: names of parts or linear layers that learn so, such as `[attention.qkv]`; all
            of the encoders when empty.
        layer_decay: learning rate of a layer over that of the next one.
        drop_path: chance that the last block skips a sequence; less for the earlier ones.
        ema_decay: share of the moving average of the weights that a step keeps; None for none.
        patience: evaluations without a better one after which the run stops; None never does.
        text_encoder: captions go through the one encoder or through a copy (retrieval).
        vtc_weight: weight of the contrastive loss (retrieval).
        vtm_weight: weight of the matching loss, for re-ranking (retrieval).
        temperature: softmax temperature of the contrastive loss (retrieval).
        negatives_over: negatives are the pairs of all ranks, or of a rank alone as in the paper's
            code (retrieval).
        memory: pairs of earlier steps that are negatives too; 0 for none (retrieval).
        video_ratio: share of the tubes that training drops, for speed (retrieval).
        rerank: best of each query that matching re-ranks at the end; 0 for none (retrieval).
    """

    weights: Literal["pretrained", "random"] = "pretrained"
    train_parts: Literal["all", "head", "features"] = "all"
    freeze: tuple[str, ...] = ()
    lora_rank: int = 0
    lora_parts: tuple[str, ...] = ()
    layer_decay: float = 0.75
    drop_path: float = 0.1
    ema_decay: float | None = None
    patience: int | None = None
    text_encoder: Literal["shared", "own"] = "shared"
    vtc_weight: float = 1.0
    vtm_weight: float = 0.0
    temperature: float = 0.05
    negatives_over: Literal["ranks", "rank"] = "ranks"
    memory: int = 0
    video_ratio: float = 0.0
    rerank: int = 0

    def __post_init__(self) -> None:
        require_sound(self)
        require_range(self, 0, 0.99, "drop_path", "video_ratio")
        require_range(self, 0.01, 1, "layer_decay")
        require_range(self, 0, 1e9, "vtc_weight", "vtm_weight", "memory", "rerank", "lora_rank")
        if self.patience is not None and self.patience < 1:
            raise ValueError(f"patience must be at least 1, got {self.patience}; null for none")
        if self.memory and self.negatives_over == "rank":
            raise ValueError(
                f"memory {self.memory} holds pairs of all ranks; set negatives_over to ranks, or "
                "memory to 0"
            )
        if self.lora_parts and not self.lora_rank:
            raise ValueError(
                f"lora_parts {', '.join(self.lora_parts)} need a rank: set lora_rank, such as 8"
            )
        if self.train_parts != "all" and (self.lora_rank or self.freeze):
            raise ValueError(
                f"train_parts {self.train_parts} trains the head alone, so lora_rank and freeze "
                "have nothing to do; leave them out, or set train_parts to all"
            )
        if self.rerank and not self.vtm_weight:
            raise ValueError("rerank needs a trained matching head: set vtm_weight above 0")


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Random changes of training clips (torchvision).

    Args:
        crop_scale: smallest and largest share of the frame's area that is cut out.
        flip_probability: chance of a left-right flip; wrong where left and right matter.
        num_operations: operations of RandAugment on each clip; 0 for none.
        magnitude: their strength, 0 to 30.
        erase_probability: chance that a rectangle is blackened.
        label_smoothing: share of a target spread over all classes (classification).
        mixup: both parameters of Mixup's Beta distribution; 0 for none (classification).
        cutmix: the same of CutMix (classification).
    """

    crop_scale: tuple[float, float] = (0.5, 1.0)
    flip_probability: float = 0.0
    num_operations: int = 0
    magnitude: int = 7
    erase_probability: float = 0.0
    label_smoothing: float = 0.1
    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        require_sound(self)
        require_range(self, 0, 1, "flip_probability", "erase_probability", "label_smoothing")


# Usual for fine-tuning masked autoencoders; the learning rate is for 256 samples a step.
DEFAULTS: dict[str, Any] = {
    "optim.lr_per_256": 1e-3,
    "optim.min_lr_per_256": 1e-6,
    "optim.warmup_epochs": 5.0,
    "optim.betas": (0.9, 0.999),
    "run.out": "runs/finetune",
    "run.epochs": 30,
    "run.evaluate_every_epochs": 1,
}


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """Everything `python -m simvtp.pipelines.finetune` can be told."""

    task: TaskName
    model: str
    data: TaskDataConfig
    tune: TuneConfig
    augment: AugmentConfig
    optim: OptimConfig
    run: RunConfig

    def __post_init__(self) -> None:
        if not self.data.train:
            raise ValueError("data.train is missing: name the annotations to train on")
        if self.task != "retrieval" and (self.data.columns or self.data.follow_links):
            raise ValueError(
                f"data.columns and data.follow_links are for retrieval, got task {self.task}; "
                "leave them out"
            )
        if self.tune.train_parts == "features" and self.task != "classification":
            raise ValueError(
                f"train_parts features is for classification, got task {self.task}; use head"
            )
        if self.tune.train_parts != "all" and self.task == "retrieval":
            raise ValueError("retrieval has no linear layer to train by itself; use all")
        if self.run.parallel == "fsdp":
            raise ValueError("fine-tuning runs with DDP only; set run.parallel to ddp")
        if self.run.batch_tokens is not None:
            raise ValueError(
                f"fine-tuning takes clips of one size, got run.batch_tokens "
                f"{self.run.batch_tokens}; leave it out and set run.batch_size"
            )


SECTIONS: dict[str, Any] = {
    "data": TaskDataConfig,
    "tune": TuneConfig,
    "augment": AugmentConfig,
    "optim": OptimConfig,
    "run": RunConfig,
}
