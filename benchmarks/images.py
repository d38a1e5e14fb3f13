"""What captioned photographs bring beside videos: `python -m benchmarks.images --out runs/images`.

Trains the tiny model on drawn clips for some steps, with and without stills of other scenes in each
step, with several seeds. Both see the same videos equally often; the stills come on top. Their
captions name what is there and no motion. Measured on held-out videos. Runs that are finished are
not repeated.
"""

import argparse
import csv
import json
import shlex
import statistics
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.ablation_report import FIGURES, compare
from benchmarks.many_runs import Run, run_all
from simvtp.data import train_tokenizer
from simvtp.data.corpus.drawing import draw_scene
from simvtp.data.corpus.rendering import Corpus, render_corpus
from simvtp.data.corpus.scenes import Scene
from simvtp.printing import Console

VIDEOS, PHOTOGRAPHS = "videos alone", "photographs beside them"
_VIDEOS_A_STEP = 16
_SHARE = 4  # Videos for each photograph of a step.
# Objects of these may be out of sight in the still.
_COME_AND_GO = {"appear", "disappear"}


def main() -> int:
    """Run what is missing, then say what came of it; 1 when a run failed."""
    options = parser().parse_args()
    console = Console(soft_wrap=True)
    # Of the scenes behind them only stills are drawn.
    corpus = render_corpus(num_up_front=options.videos)
    write_sources(options.out, corpus, num_videos=options.videos, num_stills=options.stills)
    pairs = [(variant, seed) for seed in range(options.seeds) for variant in (VIDEOS, PHOTOGRAPHS)]
    runs = [run_of(options, corpus, variant, seed) for variant, seed in pairs]
    failed = run_all(runs, processes=options.processes, threads=options.threads)
    for message in failed:
        console.print(f"failed: {message}", style="red")
    if failed:
        return 1
    results = [
        {"variant": variant, "seed": seed, **json.loads(run.result.read_text())}
        for (variant, seed), run in zip(pairs, runs, strict=True)
    ]
    differences = {name: _difference(results, name) for name in FIGURES}
    for name, (without, beside, change, half_width) in differences.items():
        console.print(
            f"{name:<20}{without:8.2f}  with photographs{beside:8.2f}, change {change:+.2f} "
            f"± {half_width:.2f}"
        )
    if options.json is not None:
        said = {"command": _command(options), "figures": differences, "runs": results}
        options.json.write_text(json.dumps(said, indent=1) + "\n")
    return 0


def write_sources(folder: Path, corpus: Corpus, *, num_videos: int, num_stills: int) -> None:
    """The first training clips as `videos.csv`, stills of scenes after them as `photos.csv`.

    All runs have the vocabulary of both, `tokenizer.json`.

    Args:
        folder: gets both tables, and the pictures.
        corpus: where the clips lie.
        num_videos: rows of the one.
        num_stills: rows of the other.

    Raises:
        ValueError: there are not enough scenes.
    """
    (folder / "photos").mkdir(parents=True, exist_ok=True)
    with corpus.train.open(encoding="utf-8", newline="") as file:
        names, *rows = csv.reader(file)
    _write(folder / "videos.csv", [names, *rows[:num_videos]])
    drawn = corpus.files
    stills = [("path", "caption")]
    for number, scene in enumerate(drawn.scenes[num_videos:], start=num_videos):
        if len(stills) > num_stills:
            break
        if any(event.motion in _COME_AND_GO for event in scene.events):
            continue
        video = draw_scene(scene, num_frames=drawn.num_frames, size=drawn.size)
        name = f"photos/{number:06d}.png"
        Image.fromarray(video[len(video) // 2].transpose(1, 2, 0)).save(folder / name)
        stills.append((name, caption_of(scene)))
    if len(stills) <= num_stills:
        raise ValueError(f"the corpus has scenes for {len(stills) - 1} stills, not {num_stills}")
    _write(folder / "photos.csv", stills)
    if not (folder / "tokenizer.json").exists():
        captions = [row[-1] for row in (*rows[:num_videos], *stills[1:])]
        train_tokenizer(captions).save(str(folder / "tokenizer.json"))


def caption_of(scene: Scene) -> str:
    """Who is to be seen, without what they do."""
    seen = " and ".join(f"a {actor.name}" for actor in scene.actors)
    return f"there is {seen}"


def _write(file: Path, rows: list[Any]) -> None:
    with file.open("w", encoding="utf-8", newline="") as table:
        csv.writer(table).writerows(rows)


def run_of(options: argparse.Namespace, corpus: Corpus, variant: str, seed: int) -> Run:
    """Train and measure one model."""
    folder = options.out / f"{variant.replace(' ', '-')}-{seed}"
    sources = [f"{{path: {options.out}/videos.csv, root: {corpus.root}, weight: {_SHARE}}}"]
    batch = _VIDEOS_A_STEP
    if variant == PHOTOGRAPHS:
        sources.append(f"{{path: {options.out}/photos.csv, num_frames: 2, weight: 1}}")
        batch += _VIDEOS_A_STEP // _SHARE
    settings = {
        "model.clip_sizes": "up_to",
        "data.train": f"[{', '.join(sources)}]",
        "data.epoch_clips": batch * options.steps,
        "data.num_workers": 0,
        "data.tokenizer": options.out / "tokenizer.json",
        # The same rate for both, though one has more clips in a step.
        "optim.lr_per_256": 256e-3 / batch,
        "optim.min_lr_per_256": 256e-5 / batch,
        "optim.warmup_epochs": 0.15,
        "run.epochs": 1,
        "run.batch_size": batch,
        "run.seed": seed,
        "run.out": folder / "run",
    }
    train = ["simvtp.pipelines.pretrain"]
    for name, value in settings.items():
        train += [f"--{name}", str(value)]
    if (folder / "run" / "config.yaml").exists():
        train.append("--resume")
    result = folder / "result.json"
    measure = ["benchmarks.ablation_measure", "--model", str(folder / "run" / "model")]
    measure += ["--json", str(result)]
    return Run(f"{variant}, seed {seed}", folder, result, [train, measure])


def _difference(results: list[dict[str, Any]], name: str) -> tuple[float, float, float, float]:
    """Means without and with photographs, their difference, and half its 95 % interval."""
    by_variant = {
        variant: {each["seed"]: each[name] for each in results if each["variant"] == variant}
        for variant in (VIDEOS, PHOTOGRAPHS)
    }
    without, beside = (statistics.mean(values.values()) for values in by_variant.values())
    change = compare(by_variant[PHOTOGRAPHS], by_variant[VIDEOS])
    return without, beside, change.mean, change.half_width


def _command(options: argparse.Namespace) -> str:
    words = ["python", "-m", "benchmarks.images"]
    for name in ("steps", "videos", "stills", "seeds", "processes", "threads"):
        words += [f"--{name}", str(getattr(options, name))]
    return shlex.join(words)


def parser() -> argparse.ArgumentParser:
    """Options of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.images",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=Path("runs/images"), metavar="DIR")
    parser.add_argument("--steps", type=int, default=300, help="of each run")
    parser.add_argument("--videos", type=int, default=1200, help="clips to train on")
    parser.add_argument("--stills", type=int, default=1200, help="photographs beside them")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=2, help="runs at the same time")
    parser.add_argument("--threads", type=int, default=1, help="threads of each")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the figures go")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
