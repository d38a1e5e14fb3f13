"""From settings to the parts of a run: data, tokenizer, model, objective."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Unpack

import torch
from tokenizers import Tokenizer

from simvtp.batch import Collator
from simvtp.config import DataConfig, DataSource, ModelConfig, PretrainConfig
from simvtp.config.data_source import names_of, sizes_of
from simvtp.data import (
    ClipDataset,
    ClipMixture,
    ClipStream,
    ClipTable,
    MultiScaleCrop,
    ShardCache,
    build_loader,
    load_clips,
    load_tokenizer,
    special_token_ids,
    train_tokenizer,
    vocabulary_size,
)
from simvtp.data.corpus.rendering import render_corpus
from simvtp.data.datasets.clips import ClipCut, CutBySource
from simvtp.data.shards.fetch import ClipFiles
from simvtp.data.sources import require_captions
from simvtp.files import write_whole
from simvtp.losses import ContrastiveLoss
from simvtp.masking import RunningCellMasker, TextMasker, TubeMasker
from simvtp.model import SimVTP
from simvtp.objective import Objective
from simvtp.parts import ModelParts
from simvtp.pipelines.pretrain.sampling import TrainingClips, build_sampler
from simvtp.seeding import derive_seed
from simvtp.step_features import ExtraTerm
from simvtp.trainer.run_plan import MODEL_STREAM, TrainingLoader

_CORPUS_GB = 4.0


class TrainingData(NamedTuple):
    """Clips to train on and, perhaps, held-out clips.

    Attributes:
        train: the clips to train on.
        validation: held-out clips.
        files: finds the files of those to train on; a stream finds its own.
    """

    train: TrainingClips
    validation: ClipTable | None
    files: ClipFiles


def load_data(config: DataConfig) -> TrainingData:
    """Manifests or shards as given, mixed if there are several, or the embedded corpus.

    Raises:
        ValueError: a manifest or a shard is faulty, or there are held-out clips alone.
    """
    if not config.sources:
        if config.validation is not None:
            raise ValueError(
                f"data.validation is {config.validation} but data.train is missing; name both, "
                "or neither for the embedded corpus"
            )
        # Drawn beside the training: the run begins at once, however many there are.
        render = partial(render_corpus, num_up_front=0)
        corpus = render() if config.num_clips is None else render(num_train=config.num_clips)
        return TrainingData(corpus.train_clips(), corpus.validation_clips(), corpus.files)
    cache = build_shard_cache(config)
    validation = None
    if config.validation is not None:
        validation = _captioned(DataSource(path=config.validation), config, cache)
    parts = [_captioned(source, config, cache) for source in config.sources]
    if len(parts) == 1 and config.epoch_clips is None:
        return TrainingData(parts[0], validation, cache)
    weights = [source.weight for source in config.sources if source.weight is not None]
    mixture = ClipMixture(
        parts,
        names=names_of(config.sources),
        weights=weights or None,
        epoch_clips=config.epoch_clips,
    )
    return TrainingData(mixture, validation, cache)


def _captioned(source: DataSource, config: DataConfig, cache: ShardCache) -> ClipTable:
    clips = load_clips(
        source.path,
        root=config.root if source.root is None else source.root,
        columns=config.columns if source.columns is None else source.columns,
        follow_links=config.follow_links,
        cache=cache,
    )
    require_captions(clips, source=source.path, purpose="training")
    return clips


def with_corpus_kept(data: DataConfig) -> DataConfig:
    """Videos of the embedded corpus are as long as a clip: one start, and they stay decoded."""
    if data.train is not None or data.clip_starts > 0:
        return data
    return replace(data, clip_starts=1, cache_gb=_CORPUS_GB)


def build_shard_cache(config: DataConfig) -> ShardCache:
    """Copies of remote shards, shared by all processes of this machine."""
    return ShardCache(max_bytes=round(config.shard_cache_gb * 1e9))


def build_tokenizer(
    config: PretrainConfig, *, train: TrainingClips, saved: Path, begun: bool
) -> Tokenizer:
    """The run's tokenizer: the one given, or one trained on the captions.

    Training a vocabulary is not deterministic, so the run keeps its own from the first moment.

    Args:
        config: settings of the run.
        train: clips to train on.
        saved: file in the folder of the run.
        begun: take that file, which this run or its rank 0 has written.

    Raises:
        ValueError: it is not there, or damaged.
    """
    if begun:
        if not saved.is_file():
            raise ValueError(
                f"{saved} is missing, the vocabulary that the run was begun with; restore it, or "
                "start a new run"
            )
        return load_tokenizer(saved)
    if config.data.tokenizer is not None:
        tokenizer = load_tokenizer(config.data.tokenizer)
    elif isinstance(train, ClipStream):
        raise ValueError(
            "what a stream says is not known before it is read; name a vocabulary "
            "(data.tokenizer), such as tokenizer.json of a model"
        )
    else:
        tokenizer = train_tokenizer(train.captions(), vocab_size=config.model.vocab_size)
    # Tokenizer.save raises a bare Exception where the disk is full.
    write_whole(saved, tokenizer.to_str(pretty=True))
    # As the other ranks and a resume have it.
    return load_tokenizer(saved)


def sized_to(tokenizer: Tokenizer, config: ModelConfig) -> ModelConfig:
    """Sizes of a model for the tokenizer's words."""
    return replace(
        config,
        vocab_size=vocabulary_size(tokenizer),
        padding_id=special_token_ids(tokenizer).pad,
    )


def build_model(
    config: PretrainConfig, *, tokenizer: Tokenizer, **parts: Unpack[ModelParts]
) -> SimVTP:
    """Model with random weights drawn from the run's seed, sized to the tokenizer's vocabulary.

    Args:
        config: settings of the run.
        tokenizer: the run's.
        **parts: one's own in the place of the usual ones, as for `SimVTP.from_config`.
    """
    sizes = sized_to(tokenizer, config.model)
    torch.manual_seed(derive_seed(config.run.seed, MODEL_STREAM))
    spacing = config.data.spacing
    return SimVTP.from_config(sizes, tokenizer=tokenizer, frame_spacing=spacing, **parts)


def build_objective(
    config: PretrainConfig, *, model: SimVTP, extra_terms: Mapping[str, ExtraTerm] | None = None
) -> Objective:
    """Objective over the model; heads of losses that are off are frozen, not left to decay.

    Args:
        config: settings of the run.
        model: the model.
        extra_terms: one's own losses beside the four, as for `Objective`.
    """
    settings = config.objective
    heads = (
        (settings.pixel_weight, model.pixel_decoder),
        (settings.word_weight, model.word_decoder),
        (settings.vtm_weight, model.match_head),
    )
    for weight, head in heads:
        head.requires_grad_(weight > 0)
    return Objective(
        model,
        pixel_weight=settings.pixel_weight,
        word_weight=settings.word_weight,
        vtc_weight=settings.vtc_weight,
        vtm_weight=settings.vtm_weight,
        contrast=ContrastiveLoss(
            temperature=settings.temperature,
            learn=settings.learn_temperature,
            negatives_over=settings.negatives_over,
        ),
        contrast_text=settings.contrast_text,
        match_text=settings.match_text,
        balance_gradients=config.balances_gradients,
        negatives=settings.negatives,
        extra_terms=extra_terms,
    )


def build_collator(
    config: PretrainConfig,
    *,
    sizes: ModelConfig,
    tokenizer: Tokenizer,
    source_ends: Sequence[int] = (),
) -> Collator:
    """Collator that draws the masks the settings ask for; `source_ends` as for Collator."""
    special, masking = special_token_ids(tokenizer), config.masking
    decode_masker = None
    if masking.decode_ratio < 1:
        decode_masker = RunningCellMasker(sizes.grid, ratio=masking.decode_ratio)
    return Collator(
        TubeMasker(sizes.grid, ratio=masking.video_ratio),
        text_masker=TextMasker(special.mask, special_ids=list(special), ratio=masking.text_ratio),
        decode_masker=decode_masker,
        whole_words=masking.text_unit == "word",
        source_ends=source_ends,
        tubelet=sizes.tubelet if sizes.clip_sizes == "up_to" else None,
    )


def build_training_loader(
    config: PretrainConfig,
    *,
    train: TrainingClips,
    files: ClipFiles,
    tokenizer: Tokenizer,
    **processes: Any,
) -> TrainingLoader:
    """Loader of training batches; bad clips are listed in the run's `quarantine.jsonl`.

    Args:
        config: settings of the run.
        train: clips to train on.
        files: finds their files.
        tokenizer: the run's.
        **processes: which of how many this is, as for `build_sampler`.
    """
    collator = build_collator(
        config,
        sizes=config.model,
        tokenizer=tokenizer,
        source_ends=train.ends if isinstance(train, ClipMixture) else (),
    )
    dataset = _build_dataset(
        config, train=train, files=files, tokenizer=tokenizer, collator=collator
    )
    sampler = build_sampler(config, train=train, tokenizer=tokenizer, **processes)
    loader = build_loader(
        dataset,
        sampler=sampler,
        num_workers=config.data.num_workers,
        collate=collator,
        pin_memory=True,
    )
    return TrainingLoader(loader, sampler)


def _cut(data: DataConfig, sizes: ModelConfig) -> ClipCut:
    crop = MultiScaleCrop(
        sizes.image_size, scales=data.crop_scales, flip_probability=data.flip_probability
    )
    return ClipCut(sizes.num_frames, crop)


def _cuts(config: PretrainConfig, train: TrainingClips) -> CutBySource | None:
    """How the clips of each source are cut; None where all are cut alike."""
    sizes = [sizes_of(source, config.model) for source in config.data.sources]
    if all(size == config.model for size in sizes):
        return None
    ends = train.ends if isinstance(train, ClipMixture) else (len(train),)
    return CutBySource(ends, tuple(_cut(config.data, size) for size in sizes))


def _build_dataset(
    config: PretrainConfig,
    *,
    train: TrainingClips,
    files: ClipFiles,
    tokenizer: Tokenizer,
    collator: Collator,
) -> ClipDataset:
    sizes, data = config.model, config.data
    if data.cache_gb and isinstance(train, ClipStream):
        raise ValueError(
            f"the clips of a stream are not kept decoded, got data.cache_gb {data.cache_gb:g}; set "
            "it to 0"
        )
    return ClipDataset(
        train,
        tokenizer=tokenizer,
        num_frames=sizes.num_frames,
        spacing=data.spacing,
        transform=_cut(data, sizes).transform,
        cut_of=_cuts(config, train),
        max_text_length=sizes.max_text_length,
        num_noise=collator.num_noise(max_text_length=sizes.max_text_length),
        seed=config.run.seed,
        quarantine=Path(config.run.out) / "quarantine.jsonl",
        max_bad_share=data.max_bad_share,
        files=files,
        time_limit=data.clip_seconds,
        num_starts=data.clip_starts,
        decoded_bytes=round(data.cache_gb * 1e9),
    )
