"""The pre-training job, from Python: `pretrain(PretrainConfig(...))`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from tokenizers import Tokenizer

from simvtp.config import DataConfig, PretrainConfig
from simvtp.data import ClipMixture
from simvtp.layers import Block
from simvtp.model import SimVTP
from simvtp.objective import Objective
from simvtp.pipelines.arguments import save_settings
from simvtp.pipelines.pretrain import setup
from simvtp.pipelines.pretrain.initial_weights import load_initial_weights
from simvtp.pipelines.pretrain.setup import (
    TrainingData,
    build_tokenizer,
    build_training_loader,
    sized_to,
    with_corpus_kept,
)
from simvtp.pipelines.pretrain.step import PretrainStep
from simvtp.pipelines.pretrain.summary import (
    HeldOut,
    evaluate_held_out,
    finish,
    log_held_out,
    print_start,
    whole_model,
)
from simvtp.pipelines.saved_model import recipe_of
from simvtp.printing import Console
from simvtp.seeding import derive_seed
from simvtp.trainer.job import fit_batch, only_run, opened_loggers, set_up_blocks, train_to_end
from simvtp.trainer.optimizer_step import optimizer_of
from simvtp.trainer.run_plan import MODEL_STREAM, RunPlan
from simvtp.trainer.sameness import digests_of, require_alike
from simvtp.trainer.saved_state import on_these_ranks, planned_ranks, require_run_state
from simvtp.trainer.stopping import NoStop, StopNow, StopRequest
from simvtp.trainer.trainer import Trainer
from simvtp.training import (
    Agreement,
    CheckpointStore,
    Logger,
    ProcessGroupInfo,
    RunLog,
    choose_device,
    choose_precision,
    is_main,
    keep_freed_memory,
    main_first,
    process_group,
    shard,
)


class Pretrained(NamedTuple):
    """What a run comes to.

    Attributes:
        model: the model, in evaluation mode, on rank 0; None on the others.
        folder: folder of the run; `model` in it holds the model.
        held_out: figures of the held-out clips, on rank 0, where there are any.
        data: the clips.
    """

    model: SimVTP | None
    folder: Path
    held_out: HeldOut | None
    data: TrainingData


class _Builders(NamedTuple):
    data: Callable[[DataConfig], TrainingData]
    model: Callable[..., SimVTP]
    objective: Callable[..., Objective]
    optimizer: Callable[..., torch.optim.Optimizer]


def pretrain(
    config: PretrainConfig,
    *,
    load_data: Callable[[DataConfig], TrainingData] = setup.load_data,
    build_model: Callable[..., SimVTP] = setup.build_model,
    build_objective: Callable[..., Objective] = setup.build_objective,
    build_optimizer: Callable[..., torch.optim.Optimizer] = optimizer_of,
    loggers: Sequence[Logger] = (),
    resume: bool = False,
    stop: StopRequest | None = None,
    console: Console | None = None,
) -> Pretrained:
    """Pre-train a model: the whole of `python -m simvtp.pipelines.pretrain`.

    Under torchrun all ranks call it. A resume gives what the run was begun with.

    Args:
        config: settings of the run.
        load_data: lists the clips, as `load_data(config.data)` does, and finds their files; each
            rank calls it, and all must get the same clips in the same order.
        build_model: makes the model, as `build_model(config, tokenizer=tokenizer)` does; torch's
            generator is seeded with the run's seed, and `config.model` has the tokenizer's sizes.
        build_objective: makes the losses, as `build_objective(config, model=model)` does.
        build_optimizer: makes the optimiser, as `optimizer_of(objective, config.optim)` does; the
            schedule sets its learning rate.
        loggers: get the figures, too, on rank 0, and are closed at the end.
        resume: go on with the run in `config.run.out` from its latest checkpoint.
        stop: requests to stop, by signals that the caller has handed over; without it they do what
            they did, and Ctrl-C raises KeyboardInterrupt.
        console: where progress is printed.

    Raises:
        ValueError: the settings do not go together, or the folder holds a run already.
        RunFailure: data, log or evaluation failed; the state is saved.
        NonFiniteLossError: too many bad steps in a row, or an update spoilt the state.
        CheckpointError: a state cannot be read or written.
        StopNow: a stop was asked for; the state is saved.
    """
    builders = _Builders(load_data, build_model, build_objective, build_optimizer)
    stop = NoStop() if stop is None else stop
    console = Console(soft_wrap=True) if console is None else console
    keep_freed_memory()
    with process_group(choose_device(config.run)) as group, only_run(Path(config.run.out)):
        with stop.interruptible():
            config, data, trainer, objective = _prepare(
                config, builders=builders, resume=resume, group=group, console=console
            )
            if is_main():
                steps = (trainer.step, trainer.plan.num_steps)
                print_start(
                    console,
                    config,
                    model=objective.model,
                    data=data,
                    steps=steps,
                    sampler=trainer.data.sampler,
                )
        further = opened_loggers(
            loggers, config.run, settings=recipe_of(config), resume=resume, console=console
        )
        with further as opened:
            evaluation = partial(_evaluation, config, data, trainer)
            finished = train_to_end(
                trainer, stop=stop, console=console, loggers=opened, evaluation=evaluation
            )
            model = whole_model(objective) if finished else None
            held_out = None
            if model is not None:
                with stop.interruptible():
                    held_out = finish(
                        config,
                        model=model,
                        data=data,
                        step=trainer.step,
                        console=console,
                        loggers=opened,
                    )
    if not finished:
        raise StopNow(f" after step {trainer.step}; state saved")
    return Pretrained(model, Path(config.run.out), held_out, data)


def _prepare(
    config: PretrainConfig,
    *,
    builders: _Builders,
    resume: bool,
    group: ProcessGroupInfo,
    console: Console,
) -> tuple[PretrainConfig, TrainingData, Trainer, Objective]:
    """Everything that training needs, at the place where the run was left."""
    config = replace(config, data=with_corpus_kept(config.data))
    out = Path(config.run.out)
    store = CheckpointStore(out / "checkpoints", agreement=Agreement())
    if not resume and store.folder.exists():
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
        data = builders.data(config.data)
        begun = resume or not is_main()
        saved = out / "tokenizer.json"
        tokenizer = build_tokenizer(config, train=data.train, saved=saved, begun=begun)
    config = replace(config, run=fit_batch(config.run, data.train, console=console))
    digests = digests_of(data.train, tokenizer)
    require_alike(config, digests, step=-1 if state is None else state["step"])
    model = _model(config, builders, tokenizer)
    if state is None:
        load_initial_weights(model, config)
    model = model.to(group.device)
    config = replace(config, model=model.config)
    trainer, objective = _build_trainer(
        config,
        builders,
        model=model,
        data=data,
        group=group,
        store=store,
        digests=digests,
        planned_ranks=group.world_size if state is None else planned_ranks(state),
    )
    if checkpoint is not None:
        trainer.load_state_dict(checkpoint.state, shares=checkpoint.shares)
    if is_main():
        save_settings(asdict(config), file=out / "config.yaml")
    return config, data, trainer, objective


def _model(config: PretrainConfig, builders: _Builders, tokenizer: Tokenizer) -> SimVTP:
    torch.manual_seed(derive_seed(config.run.seed, MODEL_STREAM))
    sized = replace(config, model=sized_to(tokenizer, config.model))
    model = builders.model(sized, tokenizer=tokenizer)
    if model.tokenizer is None:
        raise ValueError(
            "the model needs the tokenizer that build_model was given, got None; pass it on with "
            "SimVTP.from_config(config.model, tokenizer=tokenizer)"
        )
    return model


def _build_trainer(
    config: PretrainConfig,
    builders: _Builders,
    *,
    model: SimVTP,
    data: TrainingData,
    group: ProcessGroupInfo,
    store: CheckpointStore,
    digests: Mapping[str, str],
    planned_ranks: int,
) -> tuple[Trainer, Objective]:
    assert model.tokenizer is not None
    objective: Objective = builders.objective(config, model=model).to(group.device)
    set_up_blocks(model, config.run)
    if config.run.compile:
        objective.compile_pixel_error()
    if config.run.parallel == "fsdp" and group.world_size > 1:
        blocks = [module for module in model.modules() if isinstance(module, Block)]
        shard(objective, blocks=blocks, methods=["contrast_features"])
    loader = build_training_loader(
        config,
        train=data.train,
        files=data.files,
        tokenizer=model.tokenizer,
        rank=group.rank,
        world_size=group.world_size,
        planned_ranks=planned_ranks,
    )
    plan = RunPlan(config.run, config.optim, loader.sampler)
    run_step = PretrainStep(
        objective,
        optimizer=builders.optimizer(objective, config.optim),
        precision=choose_precision(config.run, device=group.device),
        clip_norm=config.optim.clip_norm,
        contrast_over=config.objective.contrast_over,
        masked_steps=round(config.masked_share * plan.num_steps),
        sources=data.train.names if isinstance(data.train, ClipMixture) else (),
    )
    trainer = Trainer(
        plan,
        run_step=run_step,
        data=loader,
        store=store,
        assemble=partial(whole_model, objective),
        describe=lambda numbers: [data.train[number].name for number in numbers],
        digests=digests,
    )
    return trainer, objective


def _evaluation(
    config: PretrainConfig, data: TrainingData, trainer: Trainer, log: RunLog
) -> Callable[[SimVTP], float] | None:
    """Held-out evaluation during training; its result is the mean of R@1, R@5 and R@10."""
    if data.validation is None:
        return None

    def evaluate(model: SimVTP) -> float:
        held_out = evaluate_held_out(config, model, data)
        log_held_out(log, trainer.step, held_out)
        recall = held_out.retrieval.text_to_video.recall
        return sum(recall.values()) / len(recall)

    return evaluate
