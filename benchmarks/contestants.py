"""The steps that are timed against each other, over the same weights, masks and negatives."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from benchmarks.reference import reference_features, reference_losses
from simvtp.batch import Batch, Collator
from simvtp.config import ModelConfig, RunConfig
from simvtp.data.datasets.clips import Sample
from simvtp.layers import attention_backend
from simvtp.layers.attention import Backend
from simvtp.losses import sample_negatives
from simvtp.masking import RunningCellMasker, TextMasker, TubeMasker
from simvtp.model import SimVTP
from simvtp.objective import Objective
from simvtp.pipelines.pretrain.step import PretrainStep
from simvtp.trainer.job import set_up_blocks
from simvtp.training import build_optimizer

_SPECIAL = (0, 100, 101, 102, 103)
_SEED = 0


class Contestant(NamedTuple):
    """A training step to time, its device, and the library's step where it is that."""

    run: Callable[[], Any]
    device: torch.device
    step: PretrainStep | None = None


class Workload(NamedTuple):
    """What all contestants work on: sizes, batch, and how; the same seed makes the same of it."""

    config: ModelConfig
    caption_lengths: tuple[int, ...]
    device: str = "cpu"
    precision: Literal["fp32", "bf16"] = "fp32"
    negatives: Literal["hard", "random"] = "hard"

    def batch(self, *, decode_ratio: float = 1.0) -> Batch:
        """The batch, on the device."""
        batch = random_batch(
            self.config, caption_lengths=self.caption_lengths, decode_ratio=decode_ratio
        )
        return batch.to(torch.device(self.device))

    def model(self) -> SimVTP:
        """The model, on the device."""
        return build_model(self.config, torch.device(self.device))


def build_packed(
    workload: Workload,
    *,
    compiled: bool | Literal["graphs"] = False,
    bucket_tokens: int = 0,
    video_only: bool = False,
    decode_ratio: float = 1.0,
    attention: Backend | None = None,
) -> Contestant:
    """The library's step, with the attention it chooses or another."""
    if video_only:
        # As little text as there can be, [CLS] and [SEP]: VideoMAE has none.
        few_words = replace(workload.config, vocab_size=max(_SPECIAL) + 2)
        lengths = (2,) * len(workload.caption_lengths)
        workload = workload._replace(config=few_words, caption_lengths=lengths)
    contestant = packed_step(
        workload.model(),
        workload.batch(decode_ratio=decode_ratio),
        precision=workload.precision,
        negatives=workload.negatives,
        run=RunConfig(compile=compiled, bucket_tokens=bucket_tokens),
        video_only=video_only,
    )
    if attention is None:
        return contestant

    def run() -> Any:
        with attention_backend(attention):
            return contestant.run()

    return contestant._replace(run=run)


def build_reference(workload: Workload) -> Contestant:
    """The step as the formulas state it, with the negatives that the library's step draws."""
    model, batch = workload.model(), workload.batch()
    step = build_packed(workload).step
    assert step is not None
    negatives = negatives_of(model, batch, step=step, negatives=workload.negatives)
    return reference_step(model, batch, negatives=negatives)


def build_videomae(workload: Workload) -> Contestant:
    """transformers' VideoMAE of the same sizes."""
    return videomae_step(workload.config, workload.batch(), precision=workload.precision)


def random_batch(
    config: ModelConfig,
    *,
    caption_lengths: Sequence[int],
    video_ratio: float = 0.9,
    text_ratio: float = 0.75,
    decode_ratio: float = 1.0,
    seed: int = _SEED,
) -> Batch:
    """A batch of noise clips and captions of given lengths, masked as in training."""
    generator = torch.Generator().manual_seed(seed)
    collator = Collator(
        TubeMasker(config.grid, ratio=video_ratio),
        text_masker=TextMasker(103, special_ids=_SPECIAL, ratio=text_ratio),
        decode_masker=RunningCellMasker(config.grid, ratio=decode_ratio),
    )
    num_noise = collator.num_noise(max_text_length=config.max_text_length)
    size = (config.num_frames, 3, config.image_size, config.image_size)
    samples = []
    for index, length in enumerate(caption_lengths):
        words = torch.randint(104, config.vocab_size, (length - 2,), generator=generator)
        video = torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)
        ids = torch.cat([torch.tensor([101]), words, torch.tensor([102])])
        noise = torch.rand(num_noise, generator=generator)
        samples.append(Sample(video, ids, torch.full_like(ids, -1), noise, "", index))
    return collator(samples)


def build_model(config: ModelConfig, device: torch.device) -> SimVTP:
    """Model with random weights that depend on nothing but its sizes."""
    torch.manual_seed(_SEED)
    return SimVTP.from_config(config).to(device)


def packed_step(
    model: SimVTP,
    batch: Batch,
    *,
    precision: Literal["fp32", "bf16"],
    negatives: Literal["hard", "random"],
    run: RunConfig | None = None,
    video_only: bool = False,
) -> Contestant:
    """The library's own step, as the pre-training job runs it, on a copy of the model."""
    run = RunConfig() if run is None else run
    model = copy.deepcopy(model)
    others = 0.0 if video_only else 1.0
    objective = Objective(
        model, word_weight=others, vtc_weight=others, vtm_weight=others, negatives=negatives
    ).train()
    set_up_blocks(model, run)
    if run.compile:
        objective.compile_pixel_error()
    optimizer = build_optimizer(objective, lr=1e-6, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.05)
    step = PretrainStep(objective, optimizer=optimizer, precision=precision, clip_norm=None)
    return Contestant(lambda: step([batch], seed=_SEED), step.device, step)


def reference_step(model: SimVTP, batch: Batch, *, negatives: Tensor) -> Contestant:
    """The step as the formulas state it, in fp32 with an optimiser that loops over parameters."""
    model = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, foreach=False, fused=False)

    def run() -> dict[str, Tensor]:
        losses = reference_losses(model, batch, negatives=negatives)
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        return losses

    return Contestant(run, model.device)


def videomae_sizes(config: ModelConfig) -> Any:
    """The sizes as transformers' `VideoMAEConfig`, with the attention that is fastest there."""
    from transformers import VideoMAEConfig

    sizes = VideoMAEConfig(
        image_size=config.image_size,
        patch_size=config.patch_size,
        num_frames=config.num_frames,
        tubelet_size=config.tubelet_frames,
        hidden_size=config.width,
        num_hidden_layers=config.depth,
        num_attention_heads=config.num_heads,
        intermediate_size=round(config.width * config.mlp_ratio),
        decoder_hidden_size=config.decoder_width,
        decoder_num_hidden_layers=config.decoder_depth,
        decoder_num_attention_heads=config.decoder_heads,
        decoder_intermediate_size=4 * config.decoder_width,
    )
    sizes._attn_implementation = "sdpa"
    return sizes


def videomae_step(
    config: ModelConfig, batch: Batch, *, precision: Literal["fp32", "bf16"]
) -> Contestant:
    """transformers' VideoMAE of the same sizes, on frames that are normalised beforehand."""
    from transformers import VideoMAEForPreTraining

    sizes = videomae_sizes(config)
    device = batch.video.device
    model = torch.nn.Module.to(VideoMAEForPreTraining(sizes), device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)
    hidden = torch.ones(len(batch.video), config.num_video_tokens, dtype=torch.bool)
    hidden = hidden.to(device).scatter(1, batch.keep, False)
    pixels = batch.video.float() / 255

    def run() -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            loss = model(pixels, bool_masked_pos=hidden).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss

    return Contestant(run, device)


@torch.no_grad()
def negatives_of(
    model: SimVTP, batch: Batch, *, step: PretrainStep, negatives: Literal["hard", "random"]
) -> Tensor:
    """Numbers of the videos that the library's step draws as negatives, for the reference."""
    similarity = None
    if negatives == "hard":
        video, text = (
            torch.nn.functional.normalize(part.float(), dim=-1)
            for part in reference_features(model, batch)
        )
        similarity = text @ video.T
    generator = step.seed_draws(_SEED, 0)
    drawn = sample_negatives(batch.keys, similarity=similarity, generator=generator)
    return drawn.videos
