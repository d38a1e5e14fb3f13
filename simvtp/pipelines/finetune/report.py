"""What a fine-tuning run says at its start, and what it found, as a table."""

import shlex
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from simvtp.pipelines.finetune.measuring import CHANCE, HIGH, LOW, MAJORITY
from simvtp.pipelines.finetune.settings import FinetuneConfig
from simvtp.pipelines.finetune.tasks import Task
from simvtp.pipelines.unknown_words import tell_unknown_captions, tell_unknown_texts
from simvtp.printing import Console, counted
from simvtp.retrieval.comparison import PERCENT
from simvtp.trainer.trainer import Trainer

# How the figures end that count places or squared differences.
_NO_SHARES = ("median rank", "mean rank", "mean squared error")


def kept_state(config: FinetuneConfig, headline: str) -> str:
    """Which state of a run is kept: none is the best where none is ever measured before the end.

    Args:
        config: settings of the run.
        headline: the figure that decides.
    """
    is_measured = 0 < config.run.evaluate_every_epochs <= config.run.epochs
    if is_measured or config.tune.train_parts == "features":
        return f"the best {headline} on validation"
    return "the last state"


def results_table(results: Mapping[str, Mapping[str, float]], *, title: str) -> Table:
    """Every figure of every split beside what it is to be compared with, the test's with intervals.

    Args:
        results: figures by split; one that a split does not have is left blank.
        title: what was measured.
    """
    names = dict.fromkeys(name for figures in results.values() for name in figures)
    floor = next((word for word in (MAJORITY, CHANCE) if any(map(_begins(word), names))), None)
    table = Table(title=title)
    table.add_column("")
    for split in results:
        table.add_column(split, justify="right")
        if floor is not None:
            table.add_column(floor.strip(), justify="right", style="dim")
    for name in names:
        if name.endswith((LOW, HIGH)) or (floor is not None and name.startswith(floor)):
            continue
        shown = (name,) if floor is None else (name, f"{floor}{name}")
        table.add_row(name, *(_cell(figures, one) for figures in results.values() for one in shown))
    table.caption = _caption(names, floor)
    return table


def _begins(word: str) -> Callable[[str], bool]:
    return lambda name: name.startswith(word)


def _caption(names: Iterable[str], floor: str | None) -> str | None:
    notes = {
        MAJORITY: "majority: always what is most frequent in training",
        CHANCE: "chance: clips and captions in a random order",
    }
    said = [] if floor is None else [notes[floor]]
    if any(name.endswith(LOW) for name in names):
        said.append(f"in brackets: {PERCENT} intervals, from resampling the clips")
    return "\n".join(said) or None


def _cell(figures: Mapping[str, float], name: str) -> str:
    if name not in figures:
        return ""
    if name == "unreadable":
        return f"{figures[name]:,.0f}"
    scale, unit = (1, "") if name.endswith(_NO_SHARES) else (100, " %")
    shown = f"{scale * figures[name]:.1f}{unit}"
    if name + LOW not in figures:
        return shown
    return f"{shown} ({scale * figures[name + LOW]:.1f} to {scale * figures[name + HIGH]:.1f})"


def next_step(config: FinetuneConfig) -> str:
    """The command that uses the model: on a folder of videos that is to be filled in."""
    model = ["--model", str(Path(config.run.out) / "model"), "--data"]
    if config.task == "retrieval":
        index = shlex.join(["python", "-m", "simvtp.pipelines.index", *model, "DIR"])
        return f"index    {index} --out INDEX"
    asked = ' --question "..."' if config.task == "qa" else ""
    predict = shlex.join(["python", "-m", "simvtp.pipelines.predict", *model, "DIR"])
    return f"predict  {predict}{asked} --json predictions.jsonl"


def print_start(console: Console, config: FinetuneConfig, *, task: Task, trainer: Trainer) -> None:
    """Say what is about to be trained on what."""
    trained = sum(p.numel() for p in task.objective.parameters() if p.requires_grad)
    rank = config.tune.lora_rank
    what = f"heads and updates of rank {rank}" if rank else config.tune.train_parts
    sizes = ", ".join(f"{count} {name}" for name, count in task.sizes.items())
    model: Any = task.objective.model
    samples = counted(config.run.batch_size, "sample")
    steps = f"steps {trainer.step} to {trainer.plan.num_steps} of {samples}"
    console.note(
        f"task:  {config.task}, from {config.tune.weights} weights of {config.model}\n"
        f"model: {trained / 1e6:.1f} M parameters to train ({what})\n"
        f"data:  {sizes}{f'; {task.form}' if task.form else ''}\n"
        f"clips: {model.frame_spacing.clip_of(model.config.num_frames)}\n"
        f"run:   {steps}, {counted(config.optim.warmup_epochs, 'epoch')} of warm-up, in "
        f"{config.run.out}; "
        f"kept is {kept_state(config, task.headline)}",
    )
    if task.sizes["validation"] == 1:
        console.note(
            "note:  one sample to validate on does not tell which state is best; name more with "
            "--data.validation, or a larger --data.validation_share",
            style="yellow",
        )
    tokenizer = getattr(task.objective.model, "tokenizer", None)
    for split in task.splits.values():
        if config.task == "retrieval":
            tell_unknown_captions(console, tokenizer, split)
        elif config.task == "qa":
            questions = [question.text for question in split.questions]
            tell_unknown_texts(console, tokenizer, questions, what="questions")
