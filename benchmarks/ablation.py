"""What each part of the objective is worth: `python -m benchmarks.ablation --out runs/ablation`.

Trains the tiny model on the embedded corpus for a fixed number of steps, changing one setting at a
time, with several seeds, and writes a table, a plot and a page. A run that was cut off goes on when
the same command is given again; finished ones are not repeated. It takes hours.
"""

import argparse
import csv
import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks.ablation_report import write_report
from benchmarks.many_runs import Run, run_all
from simvtp.command_line import picture_file
from simvtp.data.corpus.rendering import Corpus, render_corpus
from simvtp.printing import Console

BASELINE = "baseline"
MASKED_ALONE = "masked modelling alone"
_MASKED_ALONE = {"objective.vtc_weight": 0.0, "objective.vtm_weight": 0.0}
_FEW_SHARE = 10
# One change each. Captions of other clips tell nothing of a clip, nor it of them: with masked
# modelling alone, where nothing else falls with them, that leaves out the other modality.
VARIANTS: dict[str, dict[str, Any]] = {
    BASELINE: {},
    "without VTC": {"objective.vtc_weight": 0.0},
    "without VTM": {"objective.vtm_weight": 0.0},
    "without masked modelling": {"objective.pixel_weight": 0.0, "objective.word_weight": 0.0},
    MASKED_ALONE: _MASKED_ALONE,
    "masked modelling of captions of other clips": {**_MASKED_ALONE, "data.train": "shuffled.csv"},
    "video ratio 0.5": {"masking.video_ratio": 0.5},
    "video ratio 0.9": {"masking.video_ratio": 0.9},
    "text ratio 0.5": {"masking.text_ratio": 0.5},
    "text ratio 0.15": {"masking.text_ratio": 0.15},
    "a tenth of the clips": {"data.train": "few.csv"},
    "the paper's weights": {"objective.balance": "fixed"},
    "all losses from the start": {"objective.masked_first": 0.0},
    "masked text in VTC": {"objective.contrast_text": "masked"},
}
NUM_CLIPS = 4800
RESULT_NAME = "result.json"


def main() -> int:
    """Run what is missing, then write the report; 1 when a run failed."""
    options = _parser().parse_args()
    console = Console(soft_wrap=True)
    try:
        _require_same_length(options)
    except ValueError as error:
        console.print(f"error: {error}")
        return 2
    failed: list[str] = []
    if not options.report_only:
        corpus = render_corpus(num_train=NUM_CLIPS)
        write_manifests(options.out, corpus)
        runs = [_run(options, corpus, variant, seed) for variant, seed in _runs(options)]
        failed = run_all(runs, processes=options.processes, threads=options.threads)
    for message in failed:
        console.print(f"failed: {message}", style="red")
    results = [
        {"variant": variant, "seed": seed, **json.loads(file.read_text())}
        for variant, seed in _runs(options)
        if (file := _folder(options, variant, seed) / RESULT_NAME).exists()
    ]
    if not any(result["variant"] == BASELINE for result in results):
        console.print("error: no run of the baseline is finished, there is nothing to compare with")
        return 1
    settings = {
        "clips": NUM_CLIPS,
        "epochs": options.epochs,
        "batch": options.batch,
        "seeds": options.seeds,
    }
    command = _repeating_command(options)
    write_report(results, settings=settings, command=command, options=options, console=console)
    return 1 if failed else 0


def _repeating_command(options: argparse.Namespace) -> str:
    """What repeats the runs and the report, also when the report alone was asked for."""
    words = ["python", "-m", "benchmarks.ablation"]
    for name in ("epochs", "batch", "seeds", "processes", "threads", "json", "page", "plot"):
        if getattr(options, name) is not None:
            words += [f"--{name}", str(getattr(options, name))]
    return shlex.join(words)


def _require_same_length(options: argparse.Namespace) -> None:
    """Runs of another length would go on, and be reported, as if they had this one.

    Raises:
        ValueError: a run in the folder was begun with another length.
    """
    for variant, seed in _runs(options):
        times = _FEW_SHARE if VARIANTS[variant].get("data.train") == "few.csv" else 1
        wanted = {"epochs": options.epochs * times, "batch_size": options.batch}
        file = _folder(options, variant, seed) / "run" / "config.yaml"
        if not file.exists():
            continue
        begun = yaml.safe_load(file.read_text())["run"]
        for name, value in wanted.items():
            if begun[name] != value:
                raise ValueError(
                    f"{file} was begun with {name} {begun[name]}, not {value}; give the same "
                    "again, or another --out"
                )


def _runs(options: argparse.Namespace) -> Iterator[tuple[str, int]]:
    """All runs; seed after seed, so that one that is cut off leaves whole seeds."""
    for seed in range(options.seeds):
        for variant in VARIANTS:
            yield variant, seed


def _folder(options: argparse.Namespace, variant: str, seed: int) -> Path:
    return options.out / f"{variant.replace(' ', '-')}-{seed}"


def write_manifests(out: Path, corpus: Corpus) -> None:
    """All training clips, a tenth of them, and all with the captions of others."""
    out.mkdir(parents=True, exist_ok=True)
    with corpus.train.open(encoding="utf-8", newline="") as file:
        names, *rows = csv.reader(file)
    others = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0)).tolist()
    shuffled = [[*row[:-1], rows[other][-1]] for row, other in zip(rows, others, strict=True)]
    few = rows[: len(rows) // _FEW_SHARE]
    for name, chosen in (("all.csv", rows), ("few.csv", few), ("shuffled.csv", shuffled)):
        with (out / name).open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([names, *chosen])


def _run(options: argparse.Namespace, corpus: Corpus, variant: str, seed: int) -> Run:
    """Train and measure one model."""
    folder = _folder(options, variant, seed)
    changes = {"data.train": "all.csv", **VARIANTS[variant]}
    # As many steps on a tenth of the clips.
    times = _FEW_SHARE if changes["data.train"] == "few.csv" else 1
    settings = {
        **changes,
        "data.train": options.out / changes["data.train"],
        "data.root": corpus.root,
        "data.num_workers": 0,
        "data.clip_starts": 1,
        "data.cache_gb": 4,
        "run.out": folder / "run",
        "run.epochs": options.epochs * times,
        "run.batch_size": options.batch,
        "run.seed": seed,
    }
    train = ["simvtp.pipelines.pretrain"]
    for name, value in settings.items():
        train += [f"--{name}", str(value)]
    if (folder / "run" / "config.yaml").exists():
        train.append("--resume")
    measure = ["benchmarks.ablation_measure", "--model", str(folder / "run" / "model")]
    measure += ["--json", str(folder / RESULT_NAME)]
    return Run(f"{variant}, seed {seed}", folder, folder / RESULT_NAME, [train, measure])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ablation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"), metavar="DIR")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--processes", type=int, default=2, help="runs at the same time")
    parser.add_argument("--threads", type=int, default=1, help="threads of each")
    parser.add_argument("--report-only", action="store_true", help="only of what is finished")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the figures go")
    parser.add_argument("--page", type=Path, metavar="FILE.md", help="where the page goes")
    parser.add_argument("--plot", type=picture_file, metavar="FILE.png", help="where the plot goes")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
