"""What a pre-training run says at its start and leaves at its end."""

import shlex
import time
from pathlib import Path
from typing import NamedTuple

from simvtp.config import DataConfig, DataSource, PretrainConfig
from simvtp.data import (
    ClipMixture,
    ClipStream,
    ClipTable,
    EpochSampler,
    MixtureOrder,
    TooManyBadClips,
)
from simvtp.data.datasets.quarantine import require_few_bad
from simvtp.data.mixtures.held_out import clips_in_both
from simvtp.data.token_batches import TokenSampler
from simvtp.extras import has_plots
from simvtp.model import SimVTP
from simvtp.model_card import Stage
from simvtp.objective import Objective
from simvtp.pipelines.learned import measure_learned
from simvtp.pipelines.learned.figures import Learned, learned_table
from simvtp.pipelines.pictures import CONSIDERED_CLIPS, picture_of
from simvtp.pipelines.pretrain.setup import TrainingData
from simvtp.pipelines.saved_model import recipe_of, save_model
from simvtp.pipelines.unknown_words import tell_unknown_captions
from simvtp.printing import Console, counted, printable
from simvtp.retrieval.gallery import Retrieval, embed_gallery, score
from simvtp.retrieval.table import retrieval_table
from simvtp.training import (
    Logger,
    RunLog,
    gather_parameters,
    is_main,
    is_sharded,
    plot_curves,
)

# Half of what `evaluate --learned` matches each caption with: a run's end should not take long.
_TOP = 8


class HeldOut(NamedTuple):
    """What the held-out clips tell.

    Attributes:
        retrieval: of all of them, by cosine.
        learned: of the first ones; None where fewer than two can be read.
    """

    retrieval: Retrieval
    learned: Learned | None


def evaluate_held_out(
    config: PretrainConfig, model: SimVTP, data: TrainingData, *, top: int = 0
) -> HeldOut:
    """Retrieval of the held-out clips by cosine, and what was learned.

    Args:
        config: settings of the run.
        model: the model.
        data: clips of the run; some are held out.
        top: clips by cosine that each caption is matched with; 0 saves most of the time.

    Raises:
        TooManyBadClips: more of them than `data.max_bad_share` allows cannot be read.
    """
    model.eval()
    validation = data.validation
    assert validation is not None
    gallery = embed_gallery(model, validation, num_workers=config.data.num_workers)
    require_few_bad(
        len(gallery.unreadable),
        len(validation),
        max_bad_share=config.data.max_bad_share,
        what="the held-out figures would be those",
        option="--data.max_bad_share",
    )
    retrieval = score(gallery.text @ gallery.video.T, gallery.positives)
    learned = None
    if len(gallery.clip_index) > 1:
        learned = measure_learned(
            model,
            validation,
            gallery=gallery,
            train_captions=data.train.captions(),
            video_ratio=config.masking.video_ratio,
            text_ratio=config.masking.text_ratio,
            top=top,
            num_workers=config.data.num_workers,
        )
    return HeldOut(retrieval, learned)


def whole_model(objective: Objective) -> SimVTP | None:
    """The objective's model, gathered if it is sharded; all ranks must ask, rank 0 gets it."""
    model = objective.model
    if not is_sharded(objective):
        return model if is_main() else None
    parameters = gather_parameters(objective)
    if not is_main():
        return None
    prefix = "model."
    own = {name: value for name, value in parameters.items() if name.startswith(prefix)}
    weights = {name.removeprefix(prefix): value for name, value in own.items()}
    return model.rebuilt(weights=weights).to(model.device)


def log_held_out(log: RunLog, step: int, held_out: HeldOut) -> None:
    """Record an evaluation; `curves.png` shows it."""
    log.event(step, "held-out", figures(held_out.retrieval))
    if held_out.learned is not None:
        log.event(step, "learned", held_out.learned.as_dict())


def figures(result: Retrieval) -> dict[str, float]:
    """Figures of an evaluation for the log."""
    return {
        "t2v recall@1": result.text_to_video.recall[1],
        "t2v recall@10": result.text_to_video.recall[10],
        "v2t recall@1": result.video_to_text.recall[1],
        "v2t recall@10": result.video_to_text.recall[10],
        "chance recall@10": result.chance_text_to_video.recall[10],
    }


def print_start(
    console: Console,
    config: PretrainConfig,
    *,
    model: SimVTP,
    data: TrainingData,
    steps: tuple[int, int],
    sampler: EpochSampler,
) -> None:
    """Say what is about to be trained on what."""
    held_out = 0 if data.validation is None else len(data.validation)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    slices, rows, columns = model.config.grid
    console.note(
        f"model: {parameters / 1e6:.1f} M parameters, {slices} x {rows} x {columns} tubelets, "
        f"{config.masking.video_ratio:.0%} hidden; {config.masking.text_ratio:.0%} of the words\n"
        f"data:  {counted(len(data.train), 'clip')} to train on, {held_out} held out"
        f"{_understood(config, data, sampler)}\n"
        f"clips: {model.frame_spacing.clip_of(model.config.num_frames)}, of "
        f"{model.config.image_size} px{_batches(sampler)}\n"
        f"run:   steps {steps[0]} to {steps[1]} on {model.device}, in "
        f"{config.run.out}",
    )
    # What a stream holds is not known before it is read.
    known = () if isinstance(data.train, ClipStream) else (data.train,)
    for clips in (*known, *(() if data.validation is None else (data.validation,))):
        tell_unknown_captions(console, model.tokenizer, clips)
    if data.validation is not None and known:
        _tell_clips_in_both(console, known[0], data.validation)


def _understood(config: PretrainConfig, data: TrainingData, sampler: EpochSampler) -> str:
    """How the table was read, or what each epoch takes of each source."""
    train, order = data.train, sampler.order
    if isinstance(train, ClipMixture):
        assert isinstance(order, MixtureOrder)
        lines = [
            f"\n       {name}: {share.per_epoch:,} of {counted(share.num_clips, 'clip')} in an "
            f"epoch, {counted(share.per_epoch / share.num_clips, 'pass', 'passes')}"
            for name, share in zip(train.names, order.shares, strict=True)
        ]
        return "".join(lines)
    return f"; {train.form}" if config.data.train and train.form else ""


def _batches(sampler: EpochSampler) -> str:
    """How many clips a batch has, where it is not always the same."""
    if not isinstance(sampler, TokenSampler):
        return ""
    plan = sampler.plan
    fewest, most = plan.clips.start, plan.clips[-1]
    counts = f"{fewest}" if fewest == most else f"{fewest} to {most}"
    return f"; {counts} in a batch of up to {plan.budget:,} tokens"


def _tell_clips_in_both(
    console: Console, train: ClipTable | ClipMixture, held_out: ClipTable
) -> None:
    both = list(clips_in_both(train, held_out))
    if both:
        console.note(
            f"note: {len(both):,} of the {len(held_out):,} held-out clips are trained on as well, "
            f"such as {printable(both[0].name)}: the held-out figures are too good; name others "
            "on with --data.validation",
            style="yellow",
        )


def finish(
    config: PretrainConfig,
    *,
    model: SimVTP,
    data: TrainingData,
    step: int,
    console: Console,
    loggers: Logger,
) -> HeldOut | None:
    """Save the model folder, draw the pictures and print the table; the held-out figures."""
    out = Path(config.run.out)
    started = time.monotonic()
    model.eval()
    result, failure = None, None
    if data.validation is not None:
        try:
            result = evaluate_held_out(config, model, data, top=_TOP)
        except (ValueError, TooManyBadClips) as error:
            # Told once the model is saved.
            failure = error
    # The names alone: where data lie on a machine is nobody else's business.
    names = [Path(source.path).name for source in config.data.sources]
    source = ", ".join(names) or "the embedded corpus"
    stage = Stage(
        name="pre-training",
        data=f"{counted(len(data.train), 'captioned clip')} of {source}",
        recipe=recipe_of(config),
        metrics={} if result is None else _card_metrics(result),
    )
    model.facts = model.facts.after(stage)
    save_model(model, out / "model")
    if failure is not None:
        raise type(failure)(f"{failure}. The model is saved in {out}/model") from failure
    if result is not None:
        with RunLog(
            out,
            total_steps=step,
            resume_step=step,
            console=Console(quiet=True),
            further=loggers,
        ) as log:
            log_held_out(log, step, result)
        console.print(retrieval_table({"cosine": result.retrieval}, what="held-out retrieval"))
        if result.learned is not None:
            console.print(learned_table(result.learned, clips="held-out clips"))
    if has_plots():
        _draw(config, model, data)
    if data.validation is None:
        console.note(
            "note: nothing is held out, so nothing was measured; name clips that are not trained "
            "on with --data.validation",
            style="yellow",
        )
    done = "saved" if data.validation is None else "saved and evaluated"
    console.note(f"{done} in {time.monotonic() - started:.0f} s")
    return result


def _draw(config: PretrainConfig, model: SimVTP, data: TrainingData) -> None:
    out = Path(config.run.out)
    plot_curves(out / "metrics.jsonl", out_png=out / "curves.png")
    shown = data.train if data.validation is None else data.validation
    picture_of(
        model,
        shown[:CONSIDERED_CLIPS],
        out_png=out / "reconstruction.png",
        video_ratio=config.masking.video_ratio,
        text_ratio=config.masking.text_ratio,
        num_workers=config.data.num_workers,
    )


def _card_metrics(held_out: HeldOut) -> dict[str, float]:
    """Figures for the model card: of what was learned the model's own."""
    learned = () if held_out.learned is None else held_out.learned.figures
    return {**figures(held_out.retrieval), **{figure.name: figure.value for figure in learned}}


def _clips_to_show(config: DataConfig, data: TrainingData) -> list[str]:
    """Arguments that name the held-out clips, or the first source, as they were typed."""
    if config.validation is not None:
        source = DataSource(path=config.validation)
    elif config.sources:
        source = config.sources[0]
    else:
        # Only the embedded corpus is known by its manifest alone.
        shown = data.train if data.validation is None else data.validation
        source = DataSource(path=str(shown.source))
    clips = ["--data", source.path]
    if root := source.root or config.root:
        clips += ["--root", root]
    if columns := source.columns or config.columns:
        clips += ["--columns", columns]
    if config.follow_links:
        clips += ["--follow-links"]
    return clips


def print_next_steps(console: Console, config: PretrainConfig, *, data: TrainingData) -> None:
    """Say which commands take the model from here."""
    out = Path(config.run.out)
    clips = _clips_to_show(config.data, data)
    model = ["--model", str(out / "model")]

    def command(name: str, *arguments: str) -> str:
        return shlex.join(["python", "-m", f"simvtp.pipelines.{name}", *arguments])

    held_out = ["--data", "HELD_OUT.csv"] if data.validation is None else clips
    own = ["--data.train", "clips.csv", "--data.root", "DIR", "--run.out", "runs/own"]
    further = {"own clips": command("pretrain", *own)}
    if config.data.sources:
        further = {"search": command("index", *model, *clips, "--out", "INDEX")}
    steps = {
        "look at": f"{out}/reconstruction.png, {out}/curves.png",
        "model": f"{out}/model",
        "evaluate": command("evaluate", *model, *held_out),
        "reconstruct": command("visualize", *model, *clips),
        **further,
        "dashboard": "tensorboard --logdir runs",
    }
    needing_plots = () if has_plots() else ("look at", "reconstruct", "dashboard")
    console.note("")
    for name, step in steps.items():
        if name not in needing_plots:
            say = console.print if name == "model" else console.note
            say(f"{name:<13}{step}")
