"""Fine-tune a pre-trained model: `python -m simvtp.pipelines.finetune --task T --model DIR ...`.

Tasks: retrieval, classification, qa (video question answering). The state that is best on the
validation split is kept, and measured once on the test split.
"""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from simvtp.data import EpochSampler, build_loader
from simvtp.data.datasets.quarantine import require_few_bad
from simvtp.layer_decay import layer_scales
from simvtp.layers import set_drop_path
from simvtp.model import SimVTP
from simvtp.model_card import Stage
from simvtp.pipelines.arguments import (
    SettingsParser,
    add_resume,
    parse_job,
    save_settings,
    settings_parser,
)
from simvtp.pipelines.finetune.frozen_features import fit_frozen
from simvtp.pipelines.finetune.report import kept_state, results_table
from simvtp.pipelines.finetune.settings import DEFAULTS, SECTIONS, FinetuneConfig
from simvtp.pipelines.finetune.tasks import Task, build_task
from simvtp.pipelines.saved_model import recipe_of, save_model
from simvtp.pipelines.unknown_words import tell_unknown_captions, tell_unknown_texts
from simvtp.printing import Console
from simvtp.seeding import derive_seed
from simvtp.trainer.job import (
    only_run,
    run_job,
    set_up_blocks,
    train_to_end,
)
from simvtp.trainer.optimizer_step import OptimizerStep, optimizer_of
from simvtp.trainer.run_plan import MODEL_STREAM, RunPlan, TrainingLoader
from simvtp.trainer.sameness import digests_of, require_alike
from simvtp.trainer.saved_state import on_these_ranks, require_run_state
from simvtp.trainer.stopping import StopRequest
from simvtp.trainer.trainer import Trainer
from simvtp.training import (
    CheckpointStore,
    ProcessGroupInfo,
    RunLog,
    WeightAverage,
    choose_device,
    choose_precision,
    is_main,
    main_first,
    plot_curves,
    process_group,
)

PROGRAM = "python -m simvtp.pipelines.finetune"
_CHECKPOINTS = "checkpoints"


def build_parser() -> SettingsParser:
    """Command line of the job."""
    parser = settings_parser(
        PROGRAM,
        description=__doc__ or "",
        sections=SECTIONS,
        defaults=DEFAULTS,
    )
    parser.add_argument("--task", choices=("retrieval", "classification", "qa"))
    parser.add_argument("--model", type=str, help="folder of a pre-trained model, or hub id")
    add_resume(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job; returns the exit code: 0 done or asked to stop, 1 failed, 2 bad settings."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = build_parser()
    parsed = parse_job(parser, arguments, kept=("task", "model", "tune.weights"))
    for name in ("task", "model"):
        if parsed[name] is None:
            parser.error(f"--{name} is missing")

    def job(stop: StopRequest, console: Console) -> int:
        sections = {name: getattr(parsed, name) for name in SECTIONS}
        config = FinetuneConfig(task=parsed.task, model=parsed.model, **sections)
        with process_group(choose_device(config.run)) as group, only_run(Path(config.run.out)):
            return _run(config, resume=parsed.resume, group=group, stop=stop, console=console)

    return run_job(job, program=PROGRAM, out=Path(parsed.run.out))


def _run(
    config: FinetuneConfig,
    *,
    resume: bool,
    group: ProcessGroupInfo,
    stop: StopRequest,
    console: Console,
) -> int:
    if config.tune.train_parts == "features":
        # No step to share: the other ranks have nothing to do.
        if is_main():
            with stop.interruptible():
                _fit_features(config, device=group.device, console=console)
        return 0
    with stop.interruptible():
        config, task, trainer = _prepare(config, resume=resume, group=group)
        if is_main():
            _print_start(console, config, task=task, trainer=trainer)
    evaluation = partial(_evaluation, task, trainer)
    if not train_to_end(
        trainer, program=PROGRAM, stop=stop, console=console, evaluation=evaluation
    ):
        return stop.exit_code
    best = trainer.store.load_best()
    if best is not None:
        trainer.load_weights(best.state)
    if is_main():
        objective: Any = task.objective if trainer.average is None else trainer.average.module
        with stop.interruptible():
            _finish(config, task=task, model=objective.model, console=console)
    return 0


def _fit_features(config: FinetuneConfig, *, device: torch.device, console: Console) -> None:
    """No steps: the linear layer is found at once, from features computed once."""
    if _holds_run(Path(config.run.out)):
        raise ValueError(f"{config.run.out} already holds a run; choose another with --run.out")
    task = _task(config)
    save_settings(asdict(config), file=Path(config.run.out) / "config.yaml")
    model: Any = task.objective.to(device).model
    fit_frozen(model, task.splits, max_bad_share=config.data.max_bad_share)
    _finish(config, task=task, model=model, console=console)


def _holds_run(out: Path) -> bool:
    """Whether there is anything to lose; a run that ended before its first step leaves nothing."""
    return (out / _CHECKPOINTS).exists() or (out / "results.json").exists()


def _task(config: FinetuneConfig) -> Task:
    # For what is new: the linear layer, or all weights.
    torch.manual_seed(derive_seed(config.run.seed, MODEL_STREAM))
    model = SimVTP.from_pretrained(config.model)
    if config.tune.weights == "random":
        model = SimVTP.from_config(
            model.config, tokenizer=model.tokenizer, frame_spacing=model.frame_spacing
        )
    return build_task(config, model)


def _prepare(
    config: FinetuneConfig, *, resume: bool, group: ProcessGroupInfo
) -> tuple[FinetuneConfig, Task, Trainer]:
    """Everything that training needs, at the place where the run was left."""
    out = Path(config.run.out)
    store = CheckpointStore(out / _CHECKPOINTS)
    if not resume and _holds_run(out):
        raise ValueError(
            f"{out} already holds a run; continue it with --resume, choose another folder with "
            "--run.out, or delete it"
        )
    checkpoint = store.load_latest() if resume else None
    state = None if checkpoint is None else require_run_state(checkpoint)
    if state is not None:
        run = on_these_ranks(config.run, state, world_size=group.world_size)
        config = replace(config, run=run)
    with main_first():
        task = _task(config)
    task.objective.to(group.device)
    # A few labelled clips make a small batch rather than none.
    most = max(1, len(task.dataset) // (group.world_size * config.run.accumulate))
    run = replace(config.run, batch_size=min(config.run.batch_size, most))
    # Likewise a short run begins with a short warm-up.
    warmup = min(config.optim.warmup_epochs, run.epochs / 2)
    config = replace(config, run=run, optim=replace(config.optim, warmup_epochs=warmup))
    trainer = _build_trainer(config, task, group=group, store=store)
    require_alike(config, trainer.digests, step=-1 if state is None else state["step"])
    if state is not None:
        trainer.load_state_dict(state)
    if is_main():
        save_settings(asdict(config), file=out / "config.yaml")
    return config, task, trainer


def _build_trainer(
    config: FinetuneConfig, task: Task, *, group: ProcessGroupInfo, store: CheckpointStore
) -> Trainer:
    objective, optim, run, tune = task.objective, config.optim, config.run, config.tune
    set_drop_path(objective, tune.drop_path)
    set_up_blocks(objective, run)
    scales = layer_scales(objective, decay=tune.layer_decay)
    data = _build_loader(config, task, group=group)
    average = None
    if tune.ema_decay is not None:
        average = WeightAverage(objective, decay=tune.ema_decay)
    kept: Any = objective if average is None else average.module
    return Trainer(
        RunPlan(run, optim, data.sampler),
        run_step=OptimizerStep(
            objective,
            optimizer=optimizer_of(objective, optim, scales=scales),
            precision=choose_precision(run, device=group.device),
            clip_norm=optim.clip_norm,
        ),
        data=data,
        store=store,
        describe=lambda numbers: [task.name_of(number) for number in numbers],
        assemble=lambda: kept.model if is_main() else None,
        average=average,
        patience=tune.patience,
        digests=digests_of(task.splits["train"], getattr(kept.model, "tokenizer", None)),
    )


def _build_loader(config: FinetuneConfig, task: Task, *, group: ProcessGroupInfo) -> TrainingLoader:
    sampler = EpochSampler(
        len(task.dataset),
        seed=config.run.seed,
        batch_size=config.run.batch_size,
        rank=group.rank,
        world_size=group.world_size,
    )
    loader = build_loader(
        task.dataset,
        sampler=sampler,
        num_workers=config.data.num_workers,
        collate=task.collate,
        pin_memory=True,
    )
    return TrainingLoader(loader, sampler)


def _evaluation(task: Task, trainer: Trainer, log: RunLog) -> Callable[[nn.Module], float]:
    def evaluate(model: nn.Module) -> float:
        figures = task.measure(model, "validation")
        log.event(trainer.step, "validation", figures)
        return figures[task.headline]

    return evaluate


def _print_start(console: Console, config: FinetuneConfig, *, task: Task, trainer: Trainer) -> None:
    trained = sum(p.numel() for p in task.objective.parameters() if p.requires_grad)
    sizes = ", ".join(f"{count} {name}" for name, count in task.sizes.items())
    model: Any = task.objective.model
    steps = f"steps {trainer.step} to {trainer.plan.num_steps} of {config.run.batch_size} samples"
    console.print(
        f"task:  {config.task}, from {config.tune.weights} weights of {config.model}\n"
        f"model: {trained / 1e6:.1f} M parameters to train ({config.tune.train_parts})\n"
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


def _finish(config: FinetuneConfig, *, task: Task, model: Any, console: Console) -> None:
    """Measure the kept state, save it, and say so."""
    out = Path(config.run.out)
    splits = [name for name in ("validation", "test") if name in task.splits]
    results = {name: task.measure(model, name) for name in splits}
    stage = Stage(
        name=f"fine-tuning for {config.task}",
        data=f"{task.sizes['train']} samples of {Path(config.data.train).name}",
        recipe=recipe_of(config),
        metrics={
            f"{split} {name}": value
            for split, figures in results.items()
            for name, value in figures.items()
        },
    )
    model.facts = model.facts.after(stage)
    save_model(model, out / "model")
    (out / "results.json").write_text(json.dumps(results, indent=2) + "\n", "utf-8")
    if (out / "metrics.jsonl").is_file():
        plot_curves(out / "metrics.jsonl", out_png=out / "curves.png")
    kept = kept_state(config, task.headline)
    console.print(results_table(results, title=f"{config.task}, {kept}"))
    console.print(f"model    {out / 'model'}\nfigures  {out / 'results.json'}")
    for split, found in results.items():
        require_few_bad(
            int(found["unreadable"]),
            task.sizes[split],
            max_bad_share=config.data.max_bad_share,
            what=f"(see {out}/quarantine.jsonl) the {split} figures are",
            option="--data.max_bad_share",
        )
