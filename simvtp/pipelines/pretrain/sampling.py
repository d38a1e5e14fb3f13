"""Which clips make up each batch of a run: a fixed number, or as many as fit a budget of tokens."""

from typing import Any

import torch
from tokenizers import Tokenizer

from simvtp.config import ModelConfig, PretrainConfig
from simvtp.config.checks import require
from simvtp.config.data_source import names_of, sizes_of
from simvtp.config.mask_counts import num_hidden_tubes
from simvtp.data import ClipMixture, ClipStream, ClipTable, EpochSampler, MixtureOrder, ShardOrder
from simvtp.data.streaming.order import StreamOrder
from simvtp.data.token_batches import TokenPlan, TokenSampler
from simvtp.data.tokenizer import longest_caption

TrainingClips = ClipTable | ClipMixture | ClipStream


def build_sampler(
    config: PretrainConfig,
    *,
    train: TrainingClips,
    tokenizer: Tokenizer,
    rank: int = 0,
    world_size: int = 1,
    planned_ranks: int | None = None,
) -> EpochSampler:
    """Batches of a run.

    Args:
        config: settings of the run.
        train: clips to train on.
        tokenizer: the run's.
        rank: number of this process.
        world_size: number of processes.
        planned_ranks: processes that the run was begun on; None is as many as there are now.

    Raises:
        ValueError: the batch, or the budget, does not go with the clips or the processes.
    """
    run = config.run
    place: dict[str, Any] = {"seed": run.seed, "rank": rank, "world_size": world_size}
    if run.batch_tokens is not None:
        if isinstance(train, ClipStream):
            raise ValueError(
                f"run.batch_tokens {run.batch_tokens} needs the lengths of captions, and those of "
                "a stream are not known before; set run.batch_size"
            )
        tokens = _clip_tokens(config, train, tokenizer, budget=run.batch_tokens)
        ranks = world_size if planned_ranks is None else planned_ranks
        plan, order = _planned(config, train, tokens, budget=run.batch_tokens, num_ranks=ranks)
        return TokenSampler(plan, order=order, **place)
    global_batch = run.batch_size * world_size
    order = _order(config, train, global_batch=global_batch)
    num_samples = len(train)
    if isinstance(order, MixtureOrder | StreamOrder):
        num_samples = order.num_samples
    return EpochSampler(num_samples, batch_size=run.batch_size, order=order, **place)


def _clip_tokens(
    config: PretrainConfig, train: ClipTable | ClipMixture, tokenizer: Tokenizer, *, budget: int
) -> list[int]:
    """What a clip of each source counts as: its visible tubelets, and the longest caption there.

    A step's passes see both equally often, and what is decoded grows with them. Of one source all
    count alike, so that it does not matter which of its clips comes when.
    """
    parts = train.parts if isinstance(train, ClipMixture) else (train,)
    sources = config.data.sources
    sizes = [sizes_of(source, config.model) for source in sources] or [config.model] * len(parts)
    names = names_of(sources) or ["the embedded corpus"] * len(parts)
    counts: list[int] = []
    for name, part, size in zip(names, parts, sizes, strict=True):
        visible = _visible_tubelets(size, ratio=config.masking.video_ratio)
        words = longest_caption(tokenizer, part.captions(), max_length=size.max_text_length)
        require(
            visible + words <= budget,
            f"run.batch_tokens {budget} is less than a clip of {name}: {visible} visible tubelets "
            f"and, at the longest, {words} tokens of its caption; raise it to {visible + words} or "
            "more, or cut captions with model.max_text_length",
        )
        counts.append(visible + words)
    return counts


def _visible_tubelets(sizes: ModelConfig, *, ratio: float) -> int:
    slices, rows, columns = sizes.grid
    return slices * (rows * columns - num_hidden_tubes(rows * columns, ratio=ratio))


def _planned(
    config: PretrainConfig,
    train: ClipTable | ClipMixture,
    clip_tokens: list[int],
    *,
    budget: int,
    num_ranks: int,
) -> tuple[TokenPlan, MixtureOrder | StreamOrder | ShardOrder | None]:
    """Batches, and the order that they cut; `clip_tokens` of each source."""
    run = config.run
    num_parts = num_ranks * run.accumulate
    num_clips = train.epoch_clips if isinstance(train, ClipMixture) else len(train)
    require(
        num_clips >= num_parts,
        f"a step takes a clip or more for each of {num_ranks} process(es) times {run.accumulate} "
        f"micro-batch(es), an epoch has {num_clips} clips; lower run.accumulate",
    )
    # What shards are read side by side for; steps of other sizes read a few more.
    usual = num_ranks * max(1, budget // max(clip_tokens))
    order = _order(config, train, global_batch=usual, multiple=num_parts)
    if isinstance(order, MixtureOrder):
        tokens = torch.tensor(clip_tokens)[order.sources(run.seed)]
    else:
        tokens = torch.full((num_clips // num_parts * num_parts,), clip_tokens[0])
    plan = TokenPlan(tokens, budget=budget, num_ranks=num_ranks, accumulate=run.accumulate)
    return plan, order


def _order(
    config: PretrainConfig,
    train: TrainingClips,
    *,
    global_batch: int,
    multiple: int | None = None,
) -> MixtureOrder | StreamOrder | ShardOrder | None:
    """The order of an epoch; None where any one will do."""
    settings = {"global_batch": global_batch, "shuffle_buffer": config.data.shuffle_buffer}
    if isinstance(train, ClipMixture):
        return train.order(multiple=multiple, **settings)
    if isinstance(train, ClipStream):
        return train.order(**settings)
    if (shard_sizes := train.shard_sizes()) is None:
        return None
    return ShardOrder(shard_sizes, **settings)
