"""What a model fills in of clips that have no captions."""

from collections.abc import Sequence

import torch
from torch import Tensor

from simvtp.data import ClipRecord
from simvtp.data.datasets.clip_batches import clip_batches
from simvtp.layers import PackedLayout, PackedTokens, to_device
from simvtp.masking import TubeMask, TubeMasker
from simvtp.model import SimVTP
from simvtp.pipelines.learned.figures import Learned, pixel_figures
from simvtp.pipelines.learned.measures import padded_captions
from simvtp.pipelines.learned.pixel_errors import TubeletErrors, tubelet_errors
from simvtp.pipelines.learned.trained_masks import trained_ratio
from simvtp.printing import Console, Progress, printable, progress_console
from simvtp.reconstruction import fill_in
from simvtp.seeding import derive_generator


@torch.inference_mode()
def measure_pixels(
    model: SimVTP,
    records: Sequence[ClipRecord],
    *,
    num_clips: int = 256,
    video_ratio: float | None = None,
    seed: int = 0,
    batch_size: int = 32,
    num_workers: int = 0,
    console: Console | None = None,
) -> Learned:
    """Measure what a model fills in of clips without captions: each is seen with an empty one.

    Args:
        model: a model with a tokenizer.
        records: held-out clips; captions are not looked at, unreadable ones left out.
        num_clips: clips to measure on, the first ones.
        video_ratio: share of the tubes to hide; None is that of the training.
        seed: of the masks.
        batch_size: clips in one forward pass.
        num_workers: processes that decode.
        console: where it is told what is left out; None hides progress, too.

    Raises:
        ValueError: no clip can be read, or the model has no tokenizer.
    """
    model.eval()
    console = console or Console(quiet=True)
    video = _readable(model, records[:num_clips], num_workers=num_workers, console=console)
    ratio = trained_ratio(model, "video_ratio") if video_ratio is None else video_ratio
    tubes = TubeMasker(model.config.grid, ratio=ratio)(len(video), generator=derive_generator(seed))
    ids, _ = padded_captions(model, [""])
    nothing = torch.zeros(0, dtype=torch.int64, device=model.device)
    errors: list[TubeletErrors] = []
    with Progress(console=progress_console(), transient=True, disable=console.quiet) as progress:
        for rows in progress.track(torch.arange(len(video)).split(batch_size)):
            part = TubeMask(*(mask[rows].to(model.device) for mask in tubes))
            clips = video[rows].to(model.device)
            layout = PackedLayout((ids.shape[1],) * len(rows), model.device)
            text = PackedTokens(to_device(ids[0].repeat(len(rows)), model.device), layout)
            made = fill_in(model, clips, tubes=part, masked_text=text, masked_index=nothing).pixels
            errors.append(tubelet_errors(model, made, made, video=clips, tubes=part))
    figures = pixel_figures(
        TubeletErrors(*map(torch.cat, zip(*errors, strict=True))), contours=None
    )
    return Learned(tuple(figure.without("another caption") for figure in figures), len(video))


def _readable(
    model: SimVTP, records: Sequence[ClipRecord], *, num_workers: int, console: Console
) -> Tensor:
    """The clips that can be read, `(clips, frames, channels, size, size)` uint8 on the host."""
    videos: list[Tensor] = []
    for batch in clip_batches(model, records, batch_size=16, num_workers=num_workers):
        videos.append(batch.video)
        for place, reason in batch.errors:
            console.print(f"left out {printable(records[place].name)}: {reason}")
    video = torch.cat(videos)
    if not len(video):
        raise ValueError(f"none of the {len(records)} clips can be read; give others")
    return video
