"""Pre-train SimVTP: `python -m simvtp.pipelines.pretrain`.

Without arguments a tiny model is trained on an embedded corpus of captioned clips in about five
minutes on two cores. With `--data.train clips.csv --data.root DIR` it trains on your own clips.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from simvtp.config import (
    PRESETS,
    DataConfig,
    MaskingConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimConfig,
    PretrainConfig,
    RunConfig,
)
from simvtp.layers import Block
from simvtp.model import SimVTP
from simvtp.objective import Objective
from simvtp.pipelines.arguments import (
    SettingsParser,
    add_resume,
    parse_job,
    save_settings,
    settings_parser,
)
from simvtp.pipelines.pretrain.initial_weights import load_initial_weights
from simvtp.pipelines.pretrain.setup import (
    TrainingData,
    build_model,
    build_objective,
    build_tokenizer,
    build_training_loader,
    load_data,
)
from simvtp.pipelines.pretrain.step import PretrainStep
from simvtp.pipelines.pretrain.summary import (
    evaluate_held_out,
    finish,
    log_held_out,
    print_start,
)
from simvtp.pipelines.pretrain.whole_model import whole_model
from simvtp.printing import Console
from simvtp.trainer.job import (
    only_run,
    run_job,
    set_up_blocks,
    train_to_end,
)
from simvtp.trainer.optimizer_step import optimizer_of
from simvtp.trainer.run_plan import RunPlan
from simvtp.trainer.sameness import digests_of, require_alike
from simvtp.trainer.saved_state import on_these_ranks, require_run_state
from simvtp.trainer.stopping import StopRequest
from simvtp.trainer.trainer import Trainer
from simvtp.training import (
    CheckpointStore,
    ProcessGroupInfo,
    RunLog,
    choose_device,
    choose_precision,
    is_main,
    main_first,
    process_group,
    shard,
)

PROGRAM = "python -m simvtp.pipelines.pretrain"
SECTIONS: dict[str, type] = {
    "model": ModelConfig,
    "masking": MaskingConfig,
    "objective": ObjectiveConfig,
    "data": DataConfig,
    "optim": OptimConfig,
    "run": RunConfig,
}
SETTINGS = (*SECTIONS, "init_video", "init_text")

_CORPUS_GB = 4.0

# What the command does when it is told nothing: minutes on a laptop, not the paper's recipe.
LAPTOP_RECIPE: dict[str, Any] = {
    **{f"model.{name}": value for name, value in PRESETS["tiny"].items()},
    # Eight by eight tubes, so that an object covers several; eight frames over two seconds.
    "model.num_frames": 8,
    "model.patch_size": 8,
    "model.decoder_depth": 2,
    "masking.video_ratio": 0.75,
    "objective.match_text": "clean",
    "data.crop_scales": (1.0,),
    # Many small steps: at this length their number counts for more than what each one sees.
    "optim.lr_per_256": 16e-3,
    "optim.min_lr_per_256": 16e-5,
    "optim.warmup_epochs": 0.5,
    "run.epochs": 3,
    "run.batch_size": 16,
    "run.log_every": 8,
}


# From random weights a small model learns to fill tubelets in far sooner with these two; the
# encoders of others know neither.
FROM_SCRATCH: dict[str, Any] = {
    "model.video_input": "pixels and contrast",
    "model.video_positions": "axes",
}


def build_parser(arguments: Sequence[str] = ()) -> SettingsParser:
    """Command line of the job; what begins with other weights has other defaults."""
    begins = any(argument.partition("=")[0] == "--init-video" for argument in arguments)
    parser = settings_parser(
        PROGRAM,
        description=__doc__ or "",
        sections=SECTIONS,
        defaults=LAPTOP_RECIPE if begins else LAPTOP_RECIPE | FROM_SCRATCH,
    )
    for modality in ("video", "text"):
        parser.add_argument(
            f"--init-{modality}",
            type=str | None,
            default=None,
            help=f"file or folder with the {modality} weights to begin with, as for convert",
        )
    add_resume(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job; returns the exit code: 0 done or asked to stop, 1 failed, 2 bad settings."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = build_parser(arguments)
    parsed = parse_job(parser, arguments, kept=("data.tokenizer", "init_video", "init_text"))

    def job(stop: StopRequest, console: Console) -> int:
        config = PretrainConfig(**{name: getattr(parsed, name) for name in SETTINGS})
        with process_group(choose_device(config.run)) as group, only_run(Path(config.run.out)):
            return _run(config, resume=parsed.resume, group=group, stop=stop, console=console)

    return run_job(job, program=PROGRAM, out=Path(parsed.run.out))


def _run(
    config: PretrainConfig,
    *,
    resume: bool,
    group: ProcessGroupInfo,
    stop: StopRequest,
    console: Console,
) -> int:
    with stop.interruptible():
        config, data, trainer, objective = _prepare(config, resume=resume, group=group)
        if is_main():
            steps = (trainer.step, trainer.plan.num_steps)
            print_start(console, config, model=objective.model, data=data, steps=steps)
    evaluation = partial(_evaluation, config, data, trainer)
    if not train_to_end(
        trainer, program=PROGRAM, stop=stop, console=console, evaluation=evaluation
    ):
        return stop.exit_code
    model = whole_model(objective)
    if model is not None:
        with stop.interruptible():
            finish(config, model=model, data=data, step=trainer.step, console=console)
    return 0


def _prepare(
    config: PretrainConfig, *, resume: bool, group: ProcessGroupInfo
) -> tuple[PretrainConfig, TrainingData, Trainer, Objective]:
    """Everything that training needs, at the place where the run was left."""
    config = replace(config, data=_with_corpus_kept(config.data))
    out = Path(config.run.out)
    store = CheckpointStore(out / "checkpoints")
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
        data = load_data(config.data)
        begun = resume or not is_main()
        saved = out / "tokenizer.json"
        tokenizer = build_tokenizer(config, train=data.train, saved=saved, begun=begun)
    digests = digests_of(data.train, tokenizer)
    require_alike(config, digests, step=-1 if state is None else state["step"])
    model = build_model(config, tokenizer=tokenizer)
    if state is None:
        load_initial_weights(model, config)
    model = model.to(group.device)
    config = replace(config, model=model.config)
    trainer, objective = _build_trainer(
        config, model=model, data=data, group=group, store=store, digests=digests
    )
    if state is not None:
        trainer.load_state_dict(state)
    if is_main():
        save_settings(asdict(config), file=out / "config.yaml")
    return config, data, trainer, objective


def _with_corpus_kept(data: DataConfig) -> DataConfig:
    """Videos of the embedded corpus are as long as a clip: one start, and they stay decoded."""
    if data.train is not None or data.clip_starts > 0:
        return data
    return replace(data, clip_starts=1, cache_gb=_CORPUS_GB)


def _build_trainer(
    config: PretrainConfig,
    *,
    model: SimVTP,
    data: TrainingData,
    group: ProcessGroupInfo,
    store: CheckpointStore,
    digests: Mapping[str, str],
) -> tuple[Trainer, Objective]:
    assert model.tokenizer is not None
    objective: Objective = build_objective(config, model=model).to(group.device)
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
    )
    plan = RunPlan(config.run, config.optim, loader.sampler)
    run_step = PretrainStep(
        objective,
        optimizer=optimizer_of(objective, config.optim),
        precision=choose_precision(config.run, device=group.device),
        clip_norm=config.optim.clip_norm,
        contrast_over=config.objective.contrast_over,
        masked_steps=round(config.masked_share * plan.num_steps),
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
