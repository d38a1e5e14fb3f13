"""How far labels go with pre-training and without: `python -m benchmarks.transfer --model DIR`.

The model is fine-tuned on 1 %, 10 % and all of the labels of three tasks, and so is the same model
from random weights, with several seeds: motion classification, counting questions and retrieval
on clips it was not pre-trained on. A table, a plot and a page say what came out. Runs that are
done are not repeated.
"""

import argparse
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.table import Table

from benchmarks.many_runs import Run, run_all
from benchmarks.measure import command_line
from benchmarks.transfer_data import Annotations, render_tasks
from simvtp.command_line import picture_file
from simvtp.extras import new_figure
from simvtp.printing import Console

# Epochs for each share of the labels: more of fewer, about 60, 180 and 340 steps.
EPOCHS = {0.01: 60, 0.1: 30, 1.0: 6}
WEIGHTS = ("pretrained", "random")
# What is measured on the test clips of each task, and what guessing gives.
HEADLINES: dict[str, tuple[str, str]] = {
    "classification": ("top-1", "motion of an object, 11 classes, top-1"),
    "qa": ("accuracy", "how many objects have a colour, accuracy"),
    "retrieval": ("t2v recall@10", "text to video, recall@10"),
}
_SETTINGS: dict[str, Any] = {
    "run.batch_size": 16,
    "run.evaluate_every_epochs": 0,
    "optim.lr_per_256": 8e-3,
    "optim.min_lr_per_256": 8e-5,
    "optim.warmup_epochs": 1,
    "tune.drop_path": 0.0,
    "augment.crop_scale": [0.8, 1.0],
    "data.num_workers": 0,
}


class Cell(NamedTuple):
    """One fine-tuning run."""

    task: str
    weights: str
    share: float
    seed: int


def main() -> int:
    """Run what is missing, then write the report; 1 when a run failed."""
    options = _parser().parse_args()
    console = Console(soft_wrap=True)
    tasks = render_tasks(options.out / "clips", num_train=options.clips, num_test=300)
    failed: list[str] = []
    if not options.report_only:
        runs = [_run(options, cell, tasks[cell.task]) for cell in _cells(options)]
        failed = run_all(runs, processes=options.processes, threads=1)
    for message in failed:
        console.print(f"failed: {message}", style="red")
    values: dict[Cell, float] = {}
    for cell in _cells(options):
        file = _folder(options, cell) / "run" / "results.json"
        if file.exists():
            values[cell] = json.loads(file.read_text())["test"][HEADLINES[cell.task][0]]
    if not values:
        console.print("error: no run is finished, there is nothing to report")
        return 1
    console.print(_table(values))
    _write(options, values)
    return 1 if failed else 0


def _cells(options: argparse.Namespace) -> Iterator[Cell]:
    """All runs; seed after seed, so that one that is cut off leaves whole seeds."""
    for seed in range(options.seeds):
        for share in options.shares:
            for task in HEADLINES:
                for weights in WEIGHTS:
                    yield Cell(task, weights, share, seed)


def _folder(options: argparse.Namespace, cell: Cell) -> Path:
    return options.out / f"{cell.task}-{cell.weights}-{cell.share:g}-{cell.seed}"


def _run(options: argparse.Namespace, cell: Cell, annotations: Annotations) -> Run:
    folder = _folder(options, cell)
    settings = {
        **_SETTINGS,
        "run.out": folder / "run",
        "run.epochs": EPOCHS[cell.share],
        "run.seed": cell.seed,
        "data.train": annotations.train,
        "data.test": annotations.test,
        "data.label_share": cell.share,
        "tune.weights": cell.weights,
        # Random weights have nothing in the lower layers that is worth keeping.
        "tune.layer_decay": 0.75 if cell.weights == "pretrained" else 1.0,
    }
    command = ["simvtp.pipelines.finetune", "--task", cell.task, "--model", str(options.model)]
    for name, value in settings.items():
        command += [f"--{name}", str(value)]
    if (folder / "run" / "config.yaml").exists():
        command.append("--resume")
    name = f"{cell.task}, {cell.weights}, {cell.share:.0%}, seed {cell.seed}"
    return Run(name, folder, folder / "run" / "results.json", [command])


def _of(values: Mapping[Cell, float], task: str, weights: str, share: float) -> list[float]:
    wanted = (task, weights, share)
    return [value for cell, value in values.items() if cell[:3] == wanted]


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "-"
    mean = f"{100 * statistics.mean(values):.1f}"
    return f"{mean} ({100 * min(values):.1f} to {100 * max(values):.1f})"


def _rows(values: Mapping[Cell, float]) -> Iterator[tuple[str, ...]]:
    for task, (_, title) in HEADLINES.items():
        for share in EPOCHS:
            each = {weights: _of(values, task, weights, share) for weights in WEIGHTS}
            wins = sum(
                values[cell] > values[other]
                for cell in values
                if cell[:3] == (task, WEIGHTS[0], share)
                and (other := cell._replace(weights=WEIGHTS[1])) in values
            )
            count = min(len(numbers) for numbers in each.values())
            cells = [_spread(numbers) for numbers in each.values()]
            yield title, f"{share:.0%}", *cells, f"{wins} of {count}"


_COLUMNS = ("test result, %", "labels", "pre-trained", "from scratch", "seeds it wins")


def _table(values: Mapping[Cell, float]) -> Table:
    table = Table(title="fine-tuned, mean (smallest to largest) over the seeds")
    for column in _COLUMNS:
        table.add_column(column)
    for row in _rows(values):
        table.add_row(*row)
    return table


def _write(options: argparse.Namespace, values: Mapping[Cell, float]) -> None:
    if options.json is not None:
        runs = [{**cell._asdict(), "value": value} for cell, value in values.items()]
        report = {"command": command_line("benchmarks.transfer"), "clips": options.clips}
        report |= {"settings": {**_SETTINGS, "epochs": EPOCHS}, "headlines": HEADLINES}
        options.json.write_text(json.dumps({**report, "runs": runs}, indent=1, default=str) + "\n")
    if options.markdown is not None:
        rows = [_COLUMNS, ("---",) * len(_COLUMNS), *_rows(values)]
        lines = "\n".join(f"| {' | '.join(row)} |" for row in rows)
        options.markdown.write_text(lines + "\n")
    if options.plot is not None:
        _draw(values, options.plot)


def _draw(values: Mapping[Cell, float], file: Path) -> None:
    figure = new_figure(10, 3.2)
    for axis, (task, (_, title)) in zip(
        figure.subplots(1, len(HEADLINES)), HEADLINES.items(), strict=True
    ):
        for weights, label in zip(WEIGHTS, ("pre-trained", "from scratch"), strict=True):
            shares = [share for share in EPOCHS if _of(values, task, weights, share)]
            each = [[100 * x for x in _of(values, task, weights, share)] for share in shares]
            means = [statistics.mean(numbers) for numbers in each]
            errors = [
                [mean - min(numbers) for mean, numbers in zip(means, each, strict=True)],
                [max(numbers) - mean for mean, numbers in zip(means, each, strict=True)],
            ]
            places = [100 * share for share in shares]
            axis.errorbar(places, means, yerr=errors, marker="o", capsize=3, label=label)
        axis.set_xscale("log")
        axis.set_xticks([1, 10, 100], ["1", "10", "100"])
        axis.set_xlabel("labels used, %")
        axis.set_title(f"{title}, %", fontsize=9)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    figure.savefig(file, dpi=110)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.transfer",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", type=Path, required=True, help="folder of a pre-trained model")
    parser.add_argument("--out", type=Path, default=Path("runs/transfer"), metavar="DIR")
    parser.add_argument("--clips", type=int, default=1000, help="training clips of each kind")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--shares", type=float, nargs="+", choices=tuple(EPOCHS), default=tuple(EPOCHS)
    )
    parser.add_argument("--processes", type=int, default=2, help="runs at the same time")
    parser.add_argument("--report-only", action="store_true", help="only of what is finished")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the figures go")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="where the table goes")
    parser.add_argument("--plot", type=picture_file, metavar="FILE.png", help="where the plot goes")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
