"""Floors of the embedded corpus: what hidden pixels and words can be had for without a model.

`python -m benchmarks.floors` prints the error of a patch's mean, of copying the nearest visible
tubelet and of a linear predictor (ridge regression from the low-resolution visible neighbourhood,
fitted on training clips), on held-out clips with the grid and the masks of the first command.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from simvtp.config import ModelConfig
from simvtp.data import ClipRecord
from simvtp.data.corpus.contours import corpus_contours
from simvtp.data.corpus.rendering import render_corpus
from simvtp.data.datasets.clip_batches import clip_batches
from simvtp.layers import gather_tubelets
from simvtp.losses import tubelet_targets
from simvtp.masking import TubeMask, TubeMasker
from simvtp.model import SimVTP
from simvtp.pipelines.learned.figures import pixel_figures
from simvtp.pipelines.learned.pixel_errors import TubeletErrors, tubelet_errors
from simvtp.pipelines.pretrain import FROM_SCRATCH, LAPTOP_RECIPE
from simvtp.printing import Console
from simvtp.seeding import derive_generator

_REACH = 2
_RIDGE = 1e-3


def neighbourhoods(video: Tensor, tubes: TubeMask, *, tubelet: tuple[int, int, int]) -> Tensor:
    """What is visible around each dropped tubelet, `(batch, dropped, features)` float32.

    Windows of 5 x 5 tubelets of the same slice, each as 2 x 2 colours less the mean of the visible
    ones in the window, over their spread; hidden ones are 0. Marks of what is visible follow, and
    a 1.

    Args:
        video: `(batch, frames, channels, height, width)` uint8.
        tubes: what was kept and what was dropped.
        tubelet: frames, height and width of a tubelet.
    """
    frames, height, width = tubelet
    slices = (video.float() / 255).unflatten(1, (-1, frames)).mean(dim=2)
    pooled = functional.avg_pool2d(slices.flatten(0, 1), (height // 2, width // 2))
    colours = functional.pixel_unshuffle(pooled, 2)
    num_tokens = slices.shape[1] * colours.shape[2] * colours.shape[3]
    seen = torch.zeros(len(video), num_tokens).scatter_(1, tubes.keep, 1.0)
    seen = seen.view(len(colours), 1, *colours.shape[2:])
    values, marks = (_windows(each, clips=len(video)) for each in (colours * seen, seen))
    # (clips, tokens, window, colours of a channel at 2 x 2 places)
    values = values.unflatten(2, (-1, marks.shape[2])).transpose(2, 3)
    count = marks.sum(dim=2).clamp(min=1)[:, :, None, None] * values.shape[3]
    mean = values.sum(dim=(2, 3), keepdim=True) / count
    centred = (values - mean) * marks[..., None]
    spread = (centred.square().sum(dim=(2, 3), keepdim=True) / count).sqrt() + 1 / 255
    ones = torch.ones_like(marks[:, :, :1])
    features = torch.cat([(centred / spread).flatten(2), marks, ones], dim=2)
    return features.gather(1, tubes.drop[:, :, None].expand(-1, -1, features.shape[2]))


def _windows(maps: Tensor, *, clips: int) -> Tensor:
    """Windows around all tubelets, `(clips, tokens, channels * window)`."""
    found = functional.unfold(maps, 2 * _REACH + 1, padding=_REACH).transpose(1, 2)
    return found.unflatten(0, (clips, -1)).flatten(1, 2)


def fit(batches: Iterator[tuple[Tensor, Tensor]]) -> Tensor:
    """Ridge regression `(features, values)` float64 over batches of `(rows, ...)` of both."""
    products, targets, rows = 0.0, 0.0, 0
    for features, values in batches:
        known = features.double()
        products, targets = products + known.T @ known, targets + known.T @ values.double()
        rows += len(known)
    if not isinstance(products, Tensor) or not isinstance(targets, Tensor):
        raise ValueError("a regression needs one or more batches, got none; give more clips")
    ridge = _RIDGE * rows * torch.eye(len(products), dtype=torch.float64)
    return torch.linalg.solve(products + ridge, targets)


@torch.inference_mode()
def measure(
    model: SimVTP, train: Sequence[ClipRecord], held_out: Sequence[ClipRecord], *, ratio: float
) -> dict[str, float]:
    """Errors of the floors; of the model only sizes and the cut of its clips are used."""
    tubelet = model.config.tubelet

    def parts(records: Sequence[ClipRecord], seed: int) -> Iterator[tuple[Tensor, TubeMask]]:
        masker, generator = TubeMasker(model.config.grid, ratio=ratio), derive_generator(seed)
        for batch in clip_batches(model, records, batch_size=32, num_workers=0):
            yield batch.video, masker(len(batch.video), generator=generator)

    def rows(video: Tensor, tubes: TubeMask) -> tuple[Tensor, Tensor]:
        targets = tubelet_targets(gather_tubelets(video, tubes.drop, tubelet=tubelet))
        features = neighbourhoods(video, tubes, tubelet=tubelet)
        return features.flatten(0, 1), targets.flatten(0, 1)

    weights = fit(rows(*part) for part in parts(train, 1)).float()
    errors: list[TubeletErrors] = []
    drops: list[Tensor] = []
    for video, tubes in parts(held_out, 0):
        guesses = neighbourhoods(video, tubes, tubelet=tubelet) @ weights
        errors.append(tubelet_errors(model, guesses, guesses, video=video, tubes=tubes))
        drops.append(tubes.drop)
    contours = corpus_contours(
        held_out,
        num_frames=model.config.num_frames,
        spacing=model.frame_spacing,
        image_size=model.config.image_size,
        tubelet=tubelet,
    )
    merged = TubeletErrors(*map(torch.cat, zip(*errors, strict=True)))
    marked = None if contours is None else contours.gather(1, torch.cat(drops))
    found: dict[str, float] = {}
    for figure in pixel_figures(merged, contours=marked):
        floors = {name: value for name, value in figure.beside.items() if "floor" in name}
        found |= {f"{figure.name}: {name}": value for name, value in floors.items()}
        found[f"{figure.name}: linear floor"] = figure.value
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.floors", description=__doc__)
    parser.add_argument("--clips", type=int, default=512, help="training clips to fit on")
    parser.add_argument("--json", type=Path, help="where the figures go")
    options = parser.parse_args(arguments)
    sizes = {
        name.removeprefix("model."): value
        for name, value in (LAPTOP_RECIPE | FROM_SCRATCH).items()
        if name.startswith("model.")
    }
    corpus = render_corpus(num_up_front=options.clips)
    found = measure(
        SimVTP.from_config(ModelConfig(**sizes)),
        corpus.train_clips()[: options.clips],
        corpus.validation_clips(),
        ratio=LAPTOP_RECIPE["masking.video_ratio"],
    )
    console = Console()
    for name, value in found.items():
        console.print(f"{value:9.4f}  {name}")
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
