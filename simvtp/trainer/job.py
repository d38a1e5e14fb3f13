"""The outside of a training job: stops, faults told on one line, the log, the exit code."""

import os
import shlex
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from torch import nn

from simvtp.config import RunConfig
from simvtp.config.checks import require
from simvtp.data import ClipMixture
from simvtp.data.processes import num_usable_cores
from simvtp.extras import NO_PLOTS, has_plots
from simvtp.files import locked
from simvtp.layers import compile_blocks, fill_packs, recompute_blocks
from simvtp.printing import Console, counted, quietly, tracebacks
from simvtp.trainer.faults import is_expected, reason_of
from simvtp.trainer.stopping import StopNow, StopRequest
from simvtp.trainer.trainer import Trainer
from simvtp.training import (
    Logger,
    LoggerGroup,
    RunLog,
    is_launched_first,
    is_main,
    main_first,
    open_loggers,
    world_size,
)

# How many processes a launcher has started, where it says so.
_LAUNCHED = ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")

_LOCK = ".lock"

Job = Callable[[StopRequest, Console], object]


def run_job(job: Job, *, program: str, out: Path, debug: bool = False, quiet: bool = False) -> int:
    """Run a job as a command does, and tell its end.

    Args:
        job: the work; it gets the requests to stop and a place to print to.
        program: what the user typed, for the way to go on.
        out: folder of the run.
        debug: show where an error arose, before it is told on one line.
        quiet: show results and errors, no notes, no progress.

    Returns:
        The exit code: 0 done or asked to stop, 1 failed, 2 refused.
    """
    console = Console(soft_wrap=True)
    with StopRequest() as stop, quietly(quiet):
        if alone := _started_alone():
            console.note(f"note: {alone}")
        try:
            with tracebacks(debug):
                job(stop, console)
            return 0
        except StopNow as stopped:
            stop.end_children()
            if is_launched_first():
                where = str(stopped) or "; nothing of the run is lost"
                console.print(f"stopped by {stop.name}{where}.")
                print_how_to_go_on(console, program, out)
            return stop.exit_code
        except KeyboardInterrupt:
            console.print("interrupted at once; the latest checkpoint is as it was.")
            return 130
        except Exception as error:
            if not is_expected(error):
                raise
            stop.end_children()
            reason = reason_of(error, folder=out)
            console.print(f"error: {reason}", style="red")
            return 2 if isinstance(error, ValueError) else 1


@contextmanager
def opened_loggers(
    loggers: Sequence[Logger],
    run: RunConfig,
    *,
    settings: Mapping[str, Any],
    resume: bool,
    console: Console,
) -> Iterator[LoggerGroup]:
    """One's own loggers and those that the settings name, on rank 0; closed at the end.

    Args:
        loggers: one's own.
        run: settings of the run, whose folder exists.
        settings: what the others show beside the figures.
        resume: whether the run goes on.
        console: where it is told that one fails.

    Raises:
        ValueError: a named one's library is not installed.
    """
    named: list[Logger] = []
    if is_main():
        folder = Path(run.out)
        named = open_loggers(
            run.loggers, folder=folder, settings=settings, resume=resume, console=console
        )
    group = LoggerGroup([*loggers, *named] if is_main() else [], console=console)
    try:
        yield group
    finally:
        group.close()


@contextmanager
def only_run(out: Path) -> Iterator[None]:
    """Keep the folder of a run, which is made here, from all other processes; all ranks enter.

    Raises:
        ValueError: another process holds it.
        MainFailedError: rank 0 could not get it.
    """
    lock, made = None, not out.exists()
    with main_first():
        if is_main():
            out.mkdir(parents=True, exist_ok=True)
            lock = locked(out / _LOCK, refusal=ValueError(_in_use(out)))
    try:
        yield
    finally:
        if lock is not None:
            if made and list(out.iterdir()) == [out / _LOCK]:
                # Refused before anything else was written.
                (out / _LOCK).unlink()
                out.rmdir()
            lock.release()


def _in_use(out: Path) -> str:
    alone = _started_alone()
    return (
        f"another process is writing to {out}: wait for it, or choose another folder with "
        f"--run.out{alone and f'; {alone}'}"
    )


def _started_alone() -> str:
    """What to do where a launcher started several processes that do not know each other."""
    counts = {name: os.environ.get(name, "") for name in _LAUNCHED}
    found = [name for name, count in counts.items() if count.isdigit() and int(count) > 1]
    if "RANK" in os.environ or not found:
        return ""
    return (
        f"{found[0]} is {counts[found[0]]} but RANK is not set, so each process trains by itself: "
        "let the launcher start torchrun once on each machine, e.g. srun --ntasks-per-node=1 "
        "torchrun --nproc-per-node=gpu -m ..."
    )


def train_to_end(
    trainer: Trainer,
    *,
    stop: StopRequest,
    console: Console,
    loggers: Logger,
    evaluation: Callable[[RunLog], Callable[[Any], float] | None],
) -> bool:
    """Train; False when a stop came first.

    Args:
        trainer: at the place where the run was left.
        stop: requests to stop.
        console: where progress goes.
        loggers: get the figures, too.
        evaluation: makes the evaluation, which may write to the log.
    """
    if is_main():
        for note in (trainer.plan.advice, None if has_plots() else NO_PLOTS):
            if note is not None:
                console.note(f"note:  {note}")
    with RunLog(
        trainer.plan.run.out,
        total_steps=trainer.plan.num_steps,
        is_main=is_main(),
        resume_step=trainer.step,
        slow_data_hint=(
            f"raise --data.num_workers (now {trainer.data.loader.num_workers}, cores: "
            f"{num_usable_cores()}), or make the clips small once with "
            "python -m simvtp.pipelines.prepare --short-side"
        ),
        console=console,
        further=loggers,
    ) as log:
        stopped = trainer.train(log, stop=stop, evaluate=evaluation(log))
    # Those that loaded the training clips; idle now, they would still be missed if one died.
    stop.end_children()
    return not stopped


def print_how_to_go_on(console: Console, program: str, out: Path) -> None:
    """Say how a run that was stopped goes on; before it had begun, it is started again."""
    resume = " --resume" if (out / "config.yaml").is_file() else ""
    message = f"continue: {program} --run.out {shlex.quote(str(out))}{resume}"
    console.print(message)


def fit_batch(run: RunConfig, clips: Sized, *, console: Console) -> RunConfig:
    """Settings whose step takes no more clips than an epoch has; a smaller batch is told.

    Args:
        run: settings of the run.
        clips: those to train on.
        console: where it is told.
    """
    if run.batch_tokens is not None:
        return run
    num_clips = clips.epoch_clips if isinstance(clips, ClipMixture) else len(clips)
    most = max(1, num_clips // (world_size() * run.accumulate))
    if run.batch_size <= most:
        return run
    if is_main():
        console.note(
            f"note:  {counted(num_clips, 'clip')} to train on, so each batch is of {most}, not "
            f"of {run.batch_size} (--run.batch_size)",
        )
    return replace(run, batch_size=most)


def set_up_blocks(module: nn.Module, run: RunConfig) -> None:
    """Compile and recompute the transformer blocks below a module as the settings say.

    Raises:
        ValueError: CUDA graphs are asked for and the module is not on a CUDA device.
    """
    graphs = run.compile == "graphs"
    device = next(module.parameters()).device
    require(
        not graphs or device.type == "cuda",
        f"run.compile graphs needs a CUDA device, got {device.type}; set run.compile to true",
    )
    if run.compile:
        compile_blocks(module, graphs=graphs)
    fill_packs(module, run.bucket_tokens)
    if run.recompute == "block":
        recompute_blocks(module)


def end_with(exit_code: int) -> NoReturn:
    """End the process with this exit code, whatever signal comes in its last moment.

    Everything is saved; the interpreter takes a moment to end.
    """
    for stop_signal in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(stop_signal, signal.SIG_IGN)
    raise SystemExit(exit_code)
