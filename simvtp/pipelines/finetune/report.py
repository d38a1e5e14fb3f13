"""What a fine-tuning run says at its start, and what it found, as a table."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from simvtp.pipelines.finetune.measuring import HIGH, LOW
from simvtp.pipelines.finetune.settings import FinetuneConfig
from simvtp.pipelines.finetune.tasks import Task
from simvtp.pipelines.unknown_words import tell_unknown_captions, tell_unknown_texts
from simvtp.printing import Console
from simvtp.retrieval.comparison import PERCENT
from simvtp.trainer.trainer import Trainer


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
    """Every figure of every split, those of the test with their intervals.

    Args:
        results: figures by split; one that a split does not have is left blank.
        title: what was measured.
    """
    table = Table(title=title)
    table.add_column("")
    for split in results:
        table.add_column(split, justify="right")
    names = dict.fromkeys(name for figures in results.values() for name in figures)
    for name in names:
        if not name.endswith((LOW, HIGH)):
            table.add_row(name, *(_cell(figures, name) for figures in results.values()))
    if any(name.endswith(LOW) for name in names):
        table.caption = f"in brackets: {PERCENT} intervals, from resampling the clips"
    return table


def _cell(figures: Mapping[str, float], name: str) -> str:
    if name not in figures:
        return ""
    if name + LOW not in figures:
        return f"{figures[name]:.4g}"
    return f"{figures[name]:.4g} ({figures[name + LOW]:.4g} to {figures[name + HIGH]:.4g})"


def print_start(console: Console, config: FinetuneConfig, *, task: Task, trainer: Trainer) -> None:
    """Say what is about to be trained on what."""
    trained = sum(p.numel() for p in task.objective.parameters() if p.requires_grad)
    rank = config.tune.lora_rank
    what = f"heads and updates of rank {rank}" if rank else config.tune.train_parts
    sizes = ", ".join(f"{count} {name}" for name, count in task.sizes.items())
    model: Any = task.objective.model
    steps = f"steps {trainer.step} to {trainer.plan.num_steps} of {config.run.batch_size} samples"
    console.print(
        f"task:  {config.task}, from {config.tune.weights} weights of {config.model}\n"
        f"model: {trained / 1e6:.1f} M parameters to train ({what})\n"
        f"data:  {sizes}\n"
        f"clips: {model.frame_spacing.clip_of(model.config.num_frames)}\n"
        f"run:   {steps}, {config.optim.warmup_epochs:g} epochs of warm-up, in {config.run.out}; "
        f"kept is {kept_state(config, task.headline)}",
    )
    tokenizer = getattr(task.objective.model, "tokenizer", None)
    for split in task.splits.values():
        if config.task == "retrieval":
            tell_unknown_captions(console, tokenizer, split)
        elif config.task == "qa":
            questions = [question.text for question in split.questions]
            tell_unknown_texts(console, tokenizer, questions, what="questions")
