"""The fine-tuning job, from Python: `finetune(FinetuneConfig(...))`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from simvtp.config.json_file import write_json
from simvtp.data import EpochSampler, build_loader
from simvtp.data.datasets.quarantine import require_few_bad
from simvtp.extras import has_plots
from simvtp.layer_decay import layer_scales
from simvtp.layers import set_drop_path
from simvtp.model import SimVTP
from simvtp.model_card import Stage
from simvtp.pipelines.arguments import save_settings
from simvtp.pipelines.finetune import tasks
from simvtp.pipelines.finetune.frozen_features import fit_frozen
from simvtp.pipelines.finetune.report import kept_state, next_step, print_start, results_table
from simvtp.pipelines.finetune.settings import FinetuneConfig
from simvtp.pipelines.finetune.tasks import Figures, Task
from simvtp.pipelines.saved_model import recipe_of, save_model
from simvtp.printing import Console, counted
from simvtp.seeding import derive_seed
from simvtp.tasks import add_lora, freeze_parts, merge_lora
from simvtp.trainer.job import (
    fit_batch,
    only_run,
    opened_loggers,
    set_up_blocks,
    train_to_end,
)
from simvtp.trainer.optimizer_step import OptimizerStep, optimizer_of
from simvtp.trainer.run_plan import MODEL_STREAM, RunPlan, TrainingLoader
from simvtp.trainer.sameness import digests_of, require_alike
from simvtp.trainer.saved_state import on_these_ranks, require_run_state
from simvtp.trainer.stopping import NoStop, StopNow, StopRequest
from simvtp.trainer.trainer import Trainer
from simvtp.training import (
    Agreement,
    CheckpointStore,
    Logger,
    ProcessGroupInfo,
    RunLog,
    WeightAverage,
    choose_device,
    choose_precision,
    is_main,
    keep_freed_memory,
    main_first,
    plot_curves,
    process_group,
)

_CHECKPOINTS = "checkpoints"


class Finetuned(NamedTuple):
    """What a run comes to.

    Attributes:
        model: the state that was kept, on rank 0; None on the others.
        folder: folder of the run; `model` in it holds the model.
        results: figures by split, on rank 0.
    """

    model: Any
    folder: Path
    results: Mapping[str, Figures] | None


class _Builders(NamedTuple):
    model: Callable[[FinetuneConfig], SimVTP]
    task: Callable[[FinetuneConfig, SimVTP], Task]
    optimizer: Callable[..., torch.optim.Optimizer]


def load_model(config: FinetuneConfig) -> SimVTP:
    """The pre-trained model, or one like it with random weights, as the settings say."""
    model = SimVTP.from_pretrained(config.model)
    if config.tune.weights == "random":
        model = SimVTP.from_config(
            model.config, tokenizer=model.tokenizer, frame_spacing=model.frame_spacing
        )
    return model


def finetune(
    config: FinetuneConfig,
    *,
    build_model: Callable[[FinetuneConfig], SimVTP] = load_model,
    build_task: Callable[[FinetuneConfig, SimVTP], Task] = tasks.build_task,
    build_optimizer: Callable[..., torch.optim.Optimizer] = optimizer_of,
    loggers: Sequence[Logger] = (),
    resume: bool = False,
    stop: StopRequest | None = None,
    console: Console | None = None,
) -> Finetuned:
    """Fine-tune a model: the whole of `python -m simvtp.pipelines.finetune`.

    Under torchrun all ranks call it. A resume gives what the run was begun with.

    Args:
        config: settings of the run.
        build_model: loads the model, as `load_model(config)` does; torch's generator is seeded
            with the run's seed.
        build_task: makes data, losses and measures, as `build_task(config, model)` does.
        build_optimizer: makes the optimiser, as `optimizer_of(objective, config.optim,
            scales=scales)` does, where `scales` are those of the learning rates by parameter.
        loggers: get the figures, too, on rank 0, and are closed at the end; without steps, as with
            `tune.train_parts` features, there is nothing to log.
        resume: go on with the run in `config.run.out` from its latest checkpoint.
        stop: requests to stop, by signals that the caller has handed over; without it they do what
            they did, and Ctrl-C raises KeyboardInterrupt.
        console: where progress is printed.

    Raises:
        ValueError: settings or annotations do not go together, or the folder holds a run already.
        TooManyBadClips: too many clips of a split cannot be read; the model is saved.
        RunFailure: data, log or evaluation failed; the state is saved.
        NonFiniteLossError: too many bad steps in a row, or an update spoilt the state.
        CheckpointError: a state cannot be read or written.
        StopNow: a stop was asked for; the state is saved.
    """
    builders = _Builders(build_model, build_task, build_optimizer)
    stop = NoStop() if stop is None else stop
    console = Console(soft_wrap=True) if console is None else console
    keep_freed_memory()
    with process_group(choose_device(config.run)) as group, only_run(Path(config.run.out)):
        if config.tune.train_parts == "features":
            with stop.interruptible():
                return _fit_features(config, builders, device=group.device, console=console)
        with stop.interruptible():
            config, task, trainer = _prepare(
                config, builders, resume=resume, group=group, console=console
            )
            if is_main():
                print_start(console, config, task=task, trainer=trainer)
        further = opened_loggers(
            loggers, config.run, settings=recipe_of(config), resume=resume, console=console
        )
        with further as opened:
            evaluation = partial(_evaluation, task, trainer)
            finished = train_to_end(
                trainer, stop=stop, console=console, loggers=opened, evaluation=evaluation
            )
            if finished and (best := trainer.store.load_best()) is not None:
                trainer.load_weights(best.state, shares=best.shares)
            done = Finetuned(None, Path(config.run.out), None)
            if finished and is_main():
                average = trainer.average
                objective: Any = task.objective if average is None else average.module
                with stop.interruptible():
                    done = _finish(config, task=task, model=objective.model, console=console)
            for split, figures in (done.results or {}).items():
                opened.event(trainer.step, f"kept {split}", figures)
    if not finished:
        raise StopNow(f" after step {trainer.step}; state saved")
    return done


def _fit_features(
    config: FinetuneConfig, builders: _Builders, *, device: torch.device, console: Console
) -> Finetuned:
    """No steps: the linear layer is found at once, from features computed once."""
    if not is_main():
        # No step to share: the other ranks have nothing to do.
        return Finetuned(None, Path(config.run.out), None)
    if _holds_run(Path(config.run.out)):
        raise ValueError(f"{config.run.out} already holds a run; choose another with --run.out")
    task = _task(config, builders)
    save_settings(asdict(config), file=Path(config.run.out) / "config.yaml")
    model: Any = task.objective.to(device).model
    fit_frozen(model, task.splits, max_bad_share=config.data.max_bad_share)
    return _finish(config, task=task, model=model, console=console)


def _holds_run(out: Path) -> bool:
    """Whether there is anything to lose; a run that ended before its first step leaves nothing."""
    return (out / _CHECKPOINTS).exists() or (out / "results.json").exists()


def _task(config: FinetuneConfig, builders: _Builders) -> Task:
    # For what is new: the linear layer, low-rank updates, or all weights.
    torch.manual_seed(derive_seed(config.run.seed, MODEL_STREAM))
    task, tune = builders.task(config, builders.model(config)), config.tune
    model: Any = task.objective.model
    freeze_parts(model, tune.freeze)
    if tune.lora_rank:
        add_lora(model, rank=tune.lora_rank, parts=tune.lora_parts)
    return task


def _prepare(
    config: FinetuneConfig,
    builders: _Builders,
    *,
    resume: bool,
    group: ProcessGroupInfo,
    console: Console,
) -> tuple[FinetuneConfig, Task, Trainer]:
    """Everything that training needs, at the place where the run was left."""
    out = Path(config.run.out)
    store = CheckpointStore(out / _CHECKPOINTS, agreement=Agreement())
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
        task = _task(config, builders)
    task.objective.to(group.device)
    run = fit_batch(config.run, task.dataset, console=console)
    # A short run begins with a short warm-up.
    warmup = min(config.optim.warmup_epochs, run.epochs / 2)
    config = replace(config, run=run, optim=replace(config.optim, warmup_epochs=warmup))
    trainer = _build_trainer(config, builders, task, group=group, store=store)
    require_alike(config, trainer.digests, step=-1 if state is None else state["step"])
    if checkpoint is not None:
        trainer.load_state_dict(checkpoint.state, shares=checkpoint.shares)
    if is_main():
        save_settings(asdict(config), file=out / "config.yaml")
    return config, task, trainer


def _build_trainer(
    config: FinetuneConfig,
    builders: _Builders,
    task: Task,
    *,
    group: ProcessGroupInfo,
    store: CheckpointStore,
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
            optimizer=builders.optimizer(objective, optim, scales=scales),
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


def _finish(config: FinetuneConfig, *, task: Task, model: Any, console: Console) -> Finetuned:
    """Measure the kept state, save it, and say so."""
    out = Path(config.run.out)
    if config.tune.lora_rank:
        merge_lora(model)
    splits = [name for name in ("validation", "test") if name in task.splits]
    results = {name: task.measure(model, name) for name in splits}
    stage = Stage(
        name=f"fine-tuning for {config.task}",
        data=f"{counted(task.sizes['train'], 'sample')} of {Path(config.data.train).name}",
        recipe=recipe_of(config),
        metrics={
            f"{split} {name}": value
            for split, figures in results.items()
            for name, value in figures.items()
        },
    )
    model.facts = model.facts.after(stage)
    save_model(model, out / "model")
    write_json(out / "results.json", results)
    if has_plots() and (out / "metrics.jsonl").is_file():
        plot_curves(out / "metrics.jsonl", out_png=out / "curves.png")
    kept = kept_state(config, task.headline)
    console.print(results_table(results, title=f"{config.task}, {kept}"))
    console.print(f"model    {out / 'model'}\nfigures  {out / 'results.json'}")
    console.note(next_step(config))
    for split, found in results.items():
        require_few_bad(
            int(found["unreadable"]),
            task.sizes[split],
            max_bad_share=config.data.max_bad_share,
            what=f"(see {out}/quarantine.jsonl) the {split} figures are",
            option="--data.max_bad_share",
        )
    return Finetuned(model, out, results)
