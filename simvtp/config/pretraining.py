"""What pre-training is told."""

from dataclasses import dataclass, field
from typing import Literal

from simvtp.config.checks import (
    require,
    require_at_least,
    require_positive,
    require_share,
    require_sound,
)
from simvtp.config.data_source import DataSource, require_mixable, sizes_of
from simvtp.config.mask_counts import num_decoded_tubelets, num_hidden_tubes
from simvtp.config.model import ModelConfig
from simvtp.config.spacing import DEFAULT_SPACING, FrameSpacing
from simvtp.config.training import OptimConfig, RunConfig


@dataclass(frozen=True, kw_only=True)
class MaskingConfig:
    """What the model does not see (paper: 90 % of the tubes, 75 % of the words).

    Args:
        video_ratio: share of tube positions dropped; the count is rounded down.
        text_ratio: chance of each maskable token to become [MASK].
        text_unit: mask single tokens (as the paper does) or whole words.
        decode_ratio: share of the dropped tubelets that are reconstructed, chosen by running
            cells (VideoMAE V2); 1 is all of them, as the paper does.
    """

    video_ratio: float = 0.9
    text_ratio: float = 0.75
    text_unit: Literal["token", "word"] = "token"
    decode_ratio: float = 1.0

    def __post_init__(self) -> None:
        require_sound(self)
        require_share("video_ratio", self.video_ratio, below_one=True)
        require_share("text_ratio", self.text_ratio)
        require_share("decode_ratio", self.decode_ratio)
        require(self.decode_ratio > 0, "decode_ratio must be above 0; drop pixel_weight to 0")


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """Weights and choices of the four losses; a weight of 0 switches a loss and its pass off.

    Args:
        pixel_weight: weight of the pixel reconstruction error.
        word_weight: weight of the masked-word cross-entropy.
        vtc_weight: weight of the video-text contrastive loss.
        vtm_weight: weight of the video-text matching loss.
        temperature: softmax temperature of the contrastive loss.
        learn_temperature: make the temperature a parameter.
        balance: what the four weights are. `fixed`: factors of the losses, as in the paper, whose
            encoder and pixel decoder begin trained. `gradient`: shares of the gradient on the
            encoder, whose norms are measured now and then and divided out; from random weights
            they differ by orders of magnitude. `auto`: gradient, or fixed with `--init-video`,
            `--init-text`.
        masked_first: share of the steps that belong to masked modelling alone, before the
            contrastive and the matching loss come in; null is 0.15, or 0 with `--init-video` or
            `--init-text`, whose source has done that.
        contrast_text: caption seen by the contrastive pass; the paper's code used the masked one.
        match_text: caption of the matching pairs: the masked one costs no pass for pairs that
            match, as in the paper; the clean one is what the matching head is used with later.
        negatives: non-matching videos drawn by similarity, or uniformly as the paper does.
        negatives_over: both losses take their negatives from the clips of all ranks, or from a
            rank's own, as the paper's code does.
        contrast_over: the contrastive loss sees a micro-batch, or all of a step's as one batch
            (GradCache: features are encoded twice, memory stays that of a micro-batch).
    """

    pixel_weight: float = 1.0
    word_weight: float = 1.0
    vtc_weight: float = 1.0
    vtm_weight: float = 1.0
    temperature: float = 0.05
    learn_temperature: bool = False
    balance: Literal["auto", "gradient", "fixed"] = "auto"
    masked_first: float | None = None
    contrast_text: Literal["clean", "masked"] = "clean"
    match_text: Literal["clean", "masked"] = "masked"
    negatives: Literal["hard", "random"] = "hard"
    negatives_over: Literal["ranks", "rank"] = "ranks"
    contrast_over: Literal["micro_batch", "step"] = "micro_batch"

    def __post_init__(self) -> None:
        require_sound(self)
        weights = ("pixel_weight", "word_weight", "vtc_weight", "vtm_weight")
        for name in weights:
            value = getattr(self, name)
            require(value >= 0, f"{name} must be >= 0, got {value}")
        require(
            any(getattr(self, name) > 0 for name in weights),
            "every loss weight is 0, so there is nothing to learn; set at least one above 0",
        )
        require_positive(self, "temperature")
        if self.masked_first is not None:
            require_share("masked_first", self.masked_first, below_one=True)
            require(
                self.masked_first == 0 or self.pixel_weight > 0 or self.word_weight > 0,
                f"masked_first is {self.masked_first}, but pixel_weight and word_weight are 0; "
                "there is no masked modelling to begin with",
            )


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where clips come from and how a clip is cut out of a video.

    Args:
        train: training clips: a folder of videos with captions beside them, a table, or tar shards
            (a folder of prepared ones, a pattern with braces and stars, URLs); or a list of such
            sources, which are mixed: [{path: a.csv, weight: 3}, {path: SHARDS, weight: 1}]; without
            either the embedded corpus is drawn.
        epoch_clips: clips of an epoch, of which each source has its share; null is as many as all
            sources hold.
        validation: held-out clips, named in the same ways.
        root: folder that the manifests' paths are relative to.
        columns: columns of a table that count, such as `path=file,caption=text`; null finds those
            with the usual names.
        follow_links: clips, and folders of them, may be links that lead out of the root.
        num_clips: training clips of the embedded corpus, each drawn when it is first needed.
        tokenizer: tokenizer.json, vocab.txt, folder or hub name; without one a WordPiece
            vocabulary is trained on the training captions.
        frame_seconds: seconds of the source video between two frames of a clip; 0.25 where no
            stride is given either.
        frame_stride: instead, frames of the source video between two frames of a clip, whatever
            their rate (the paper: 4).
        crop_scales: sides of the random crop over the short side of the frame.
        flip_probability: chance of a left-right flip; captions that say left or right need 0.
        num_workers: processes that decode clips.
        max_bad_share: the run stops when more than this share of the clips tried is unreadable.
        clip_seconds: seconds that reading one clip may take before it counts as unreadable.
        shuffle_buffer: most places that a clip in a shard moves from the order of the shards,
            which is itself shuffled.
        shard_cache_gb: gigabytes that copies of remote shards may take up on this machine.
        clip_starts: places at which the clips of a video may start, drawn once and taken in turn
            from epoch to epoch; 0 draws a new one in every epoch.
        cache_gb: gigabytes of disk for decoded clips, which later epochs and runs of this machine
            then need not decode; 0 keeps none. It needs clip_starts and changes no sample.
    """

    train: tuple[DataSource, ...] | str | None = None
    epoch_clips: int | None = None
    validation: str | None = None
    root: str | None = None
    columns: str | None = None
    follow_links: bool = False
    num_clips: int | None = None
    tokenizer: str | None = None
    frame_seconds: float | None = None
    frame_stride: int | None = None
    crop_scales: tuple[float, ...] = (1.0, 0.875, 0.75, 0.66)
    flip_probability: float = 0.0
    num_workers: int = 1
    max_bad_share: float = 0.1
    clip_seconds: float = 60.0
    shuffle_buffer: int = 2048
    shard_cache_gb: float = 50.0
    clip_starts: int = 0
    cache_gb: float = 0.0

    def __post_init__(self) -> None:
        require_sound(self)
        _ = self.spacing
        require_positive(self, "clip_seconds", "shuffle_buffer", "shard_cache_gb")
        require(self.num_workers >= 0, f"num_workers must be >= 0, got {self.num_workers}")
        require(
            self.num_clips is None or self.train is None,
            f"num_clips {self.num_clips} is the size of the embedded corpus, but train names "
            f"{self.train}; leave out one of them",
        )
        require_at_least(1, num_clips=self.num_clips, epoch_clips=self.epoch_clips)
        require(
            self.epoch_clips is None or self.train is not None,
            f"epoch_clips {self.epoch_clips} is for data.train; the embedded corpus has num_clips",
        )
        if not isinstance(self.train, str | None):
            require_mixable(self.train)
        require(self.clip_starts >= 0, f"clip_starts must be >= 0, got {self.clip_starts}")
        require(self.cache_gb >= 0, f"cache_gb must be >= 0, got {self.cache_gb}")
        require(
            self.cache_gb == 0 or self.clip_starts > 0,
            f"cache_gb {self.cache_gb:g} needs clips that come again, but clip_starts 0 draws new "
            "ones in every epoch; set clip_starts to 1 or more, or cache_gb to 0",
        )
        require_share("flip_probability", self.flip_probability)
        require_share("max_bad_share", self.max_bad_share)
        require(
            bool(self.crop_scales) and all(0 < scale <= 1 for scale in self.crop_scales),
            f"crop_scales must be one or more shares in (0, 1], got {self.crop_scales}",
        )

    @property
    def sources(self) -> tuple[DataSource, ...]:
        """What the training clips come from; nothing for the embedded corpus."""
        if isinstance(self.train, str):
            return (DataSource(path=self.train),)
        return () if self.train is None else tuple(self.train)

    @property
    def spacing(self) -> FrameSpacing:
        """How far apart the frames of a clip lie.

        Raises:
            ValueError: seconds and a stride are given, or the one that is is not above 0.
        """
        if self.frame_seconds is None and self.frame_stride is None:
            return DEFAULT_SPACING
        return FrameSpacing(seconds=self.frame_seconds, stride=self.frame_stride)


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Everything `python -m simvtp.pipelines.pretrain` can be told.

    Args:
        model: sizes of the model.
        masking: what the model does not see.
        objective: losses.
        data: clips.
        optim: optimiser and schedule.
        run: length, batch and bookkeeping.
        init_video: weights of another model that tubelet embedding, encoder and, where it fits,
            pixel decoder begin with.
        init_text: weights of another model that the text embedding begins with.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    masking: MaskingConfig = field(default_factory=MaskingConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    run: RunConfig = field(default_factory=RunConfig)
    init_video: str | None = None
    init_text: str | None = None

    @property
    def is_from_scratch(self) -> bool:
        """Whether all weights begin at random."""
        return self.init_video is None and self.init_text is None

    @property
    def balances_gradients(self) -> bool:
        """Whether the losses' weights are shares of the gradient."""
        return self.objective.balance == "gradient" or (
            self.objective.balance == "auto" and self.is_from_scratch
        )

    @property
    def masked_share(self) -> float:
        """Share of the steps that belong to masked modelling alone."""
        objective = self.objective
        if objective.masked_first is not None:
            return objective.masked_first
        masks = objective.pixel_weight > 0 or objective.word_weight > 0
        return 0.15 if self.is_from_scratch and masks else 0.0

    def __post_init__(self) -> None:
        self._check_masks()
        require(
            self.init_text is None or self.data.tokenizer is not None,
            f"--init-text {self.init_text} brings an embedding of one vocabulary; name its "
            "tokenizer.json or vocab.txt, or their folder, with --data.tokenizer",
        )
        require(
            self.run.parallel == "ddp" or not self.objective.learn_temperature,
            "objective.learn_temperature is a single number, which run.parallel fsdp cannot share "
            "out; use ddp, or a fixed temperature",
        )
        require(
            self.run.compile != "graphs" or self.model.clip_sizes != "up_to",
            "run.compile graphs needs steps of one shape, and with model.clip_sizes up_to each has "
            "other numbers of clips of a size; set run.compile to true",
        )

    def _check_masks(self) -> None:
        """Refuse ratios that a source's grid rounds to nothing, before a step has to."""
        sizes = [sizes_of(source, self.model) for source in self.data.sources]
        for model in {self.model, *sizes}:
            self._check_masks_of(model)
        require(
            self.data.cache_gb == 0 or {self.model} == {self.model, *sizes},
            f"data.cache_gb {self.data.cache_gb:g} keeps clips of one size, the sources' are of "
            "several; set it to 0",
        )
        require(
            self.run.parallel == "ddp" or {self.model} == {self.model, *sizes},
            "run.parallel fsdp gathers weights for each size of clips, and a rank may lack a size "
            "that others have: they would wait for ever; use ddp, or clips of one size",
        )

    def _check_masks_of(self, model: ModelConfig) -> None:
        slices, rows, columns = model.grid
        masking = self.masking
        hidden = num_hidden_tubes(
            rows * columns, ratio=masking.video_ratio, name="masking.video_ratio"
        )
        require(
            hidden > 0 or self.objective.pixel_weight == 0,
            "masking.video_ratio is 0, so that no pixel is left to reconstruct; raise it, or set "
            "objective.pixel_weight to 0",
        )
        num_decoded_tubelets(
            slices * hidden, ratio=masking.decode_ratio, name="masking.decode_ratio"
        )
