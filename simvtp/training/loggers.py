"""Where else a run's figures go: the `Logger` protocol, and trackers that take them."""

import re
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Protocol

from simvtp.extras import MissingPackageError, needs
from simvtp.printing import Console, printable

LoggerName = Literal["wandb", "mlflow", "trackio"]
_NAMES_FILE = "tracked_as"
_PROJECT = "simvtp"


class Logger(Protocol):
    """Takes a run's figures, on rank 0. One that fails is told once and gets no more."""

    def step(self, step: int, figures: Mapping[str, float]) -> None:
        """Take what is logged of an optimiser step: losses, learning rate, speed."""
        ...

    def event(self, step: int, name: str, figures: Mapping[str, float]) -> None:
        """Take the outcome of an evaluation called `name` after `step` steps."""
        ...

    def close(self) -> None:
        """The run is over, or was cut off by an error."""
        ...


class LoggerGroup:
    """Several loggers as one that never fails: a run is the same with them and without.

    Args:
        loggers: those that get the figures.
        console: where a failure is told.
    """

    def __init__(self, loggers: Sequence[Logger], *, console: Console) -> None:
        self._loggers = list(loggers)
        self._console = console

    def step(self, step: int, figures: Mapping[str, float]) -> None:
        """Pass the figures of a step on."""
        self._each(lambda logger: logger.step(step, dict(figures)))

    def event(self, step: int, name: str, figures: Mapping[str, float]) -> None:
        """Pass the outcome of an evaluation on."""
        self._each(lambda logger: logger.event(step, name, dict(figures)))

    def close(self) -> None:
        """Close those that have not failed."""
        self._each(lambda logger: logger.close())
        self._loggers.clear()

    def _each(self, call: Callable[[Logger], None]) -> None:
        for logger in list(self._loggers):
            try:
                call(logger)
            except Exception as error:
                self._loggers.remove(logger)
                tell_failure(self._console, type(logger).__name__, error)


def tell_failure(console: Console, name: str, error: Exception) -> None:
    """Say once that the figures no longer go somewhere."""
    reason = printable(f"{type(error).__name__}: {error}")
    line = f"note: {name} failed and gets no more figures, the run goes on: {reason}"
    console.print(line, soft_wrap=True)


def open_loggers(
    names: Sequence[LoggerName],
    *,
    folder: Path,
    settings: Mapping[str, Any],
    resume: bool,
    console: Console,
) -> list[Logger]:
    """The trackers of these names, under a name of the run that a resume finds again.

    Each takes its place and its mode from its own environment variables.

    Args:
        names: the trackers.
        folder: folder of the run, which keeps that name.
        settings: plain values to show beside the figures.
        resume: whether the run goes on.
        console: where it is told that one cannot be opened.

    Raises:
        ValueError: a tracker's library is not installed.
    """
    if not names:
        return []
    kept = folder / _NAMES_FILE
    if not (resume and kept.is_file()):
        # Of characters that all of them take.
        place = re.sub(r"[^\w.-]", "-", folder.name)
        kept.write_text(f"{place}-{uuid.uuid4().hex[:8]}\n", "utf-8")
    run = kept.read_text("utf-8").strip()
    opened: list[Logger] = []
    for name in names:
        try:
            with needs(name, f"run.loggers {name}"):
                opened.append(_open(name, run, folder=folder, settings=settings))
        except MissingPackageError:
            raise
        except Exception as error:
            tell_failure(console, name, error)
    return opened


def _open(name: LoggerName, run: str, *, folder: Path, settings: Mapping[str, Any]) -> Logger:
    if name == "wandb":
        return WandbLogger(run, settings=settings, dir=folder)
    return (MlflowLogger if name == "mlflow" else TrackioLogger)(run, settings=settings)


class WandbLogger:
    """Figures to Weights & Biases; `mode="offline"` keeps them on this machine.

    Args:
        run: name of the run; one of that name goes on.
        project: where it is listed.
        settings: plain values to show beside the figures.
        **options: as for `wandb.init`.
    """

    def __init__(
        self,
        run: str,
        *,
        project: str = _PROJECT,
        settings: Mapping[str, Any] = MappingProxyType({}),
        **options: Any,
    ) -> None:
        import wandb

        named = {"project": project, "id": run, "name": run, "resume": "allow"}
        self._run: Any = wandb.init(**named, config=dict(settings), **options)

    def step(self, step: int, figures: Mapping[str, float]) -> None:
        """Log them."""
        self._run.log(dict(figures), step=step)

    def event(self, step: int, name: str, figures: Mapping[str, float]) -> None:
        """Log them under the name."""
        self.step(step, {f"{name}/{key}": value for key, value in figures.items()})

    def close(self) -> None:
        """End the run there."""
        self._run.finish()


class TrackioLogger(WandbLogger):
    """Figures to trackio, on this machine or in a Space of the Hugging Face hub.

    Args:
        run: name of the run; one of that name goes on.
        project: where it is listed.
        settings: plain values to show beside the figures.
        **options: as for `trackio.init`.
    """

    def __init__(
        self,
        run: str,
        *,
        project: str = _PROJECT,
        settings: Mapping[str, Any] = MappingProxyType({}),
        **options: Any,
    ) -> None:
        import trackio  # pyright: ignore[reportMissingImports]

        options = {"resume": "allow", "config": dict(settings), **options}
        self._run = trackio.init(project, name=run, **options)


class MlflowLogger:
    """Figures to MLflow, at `MLFLOW_TRACKING_URI` or in a file beside the working folder's.

    Args:
        run: name of the run; one of that name goes on.
        project: the experiment that it is listed in.
        settings: plain values to show beside the figures.
        tracking_uri: where to, in the place of the environment's.
    """

    def __init__(
        self,
        run: str,
        *,
        project: str = _PROJECT,
        settings: Mapping[str, Any] = MappingProxyType({}),
        tracking_uri: str | None = None,
    ) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param

        self._client, self._metric = MlflowClient(tracking_uri), Metric
        known = self._client.get_experiment_by_name(project)
        place = self._client.create_experiment(project) if known is None else known.experiment_id
        found = self._client.search_runs([place], f"attributes.run_name = '{run}'", max_results=1)
        if found:
            self._id = found[0].info.run_id
        else:
            self._id = self._client.create_run(place, run_name=run).info.run_id
            params = [Param(name, str(value)[:500]) for name, value in settings.items()]
            self._client.log_batch(self._id, params=params)

    def step(self, step: int, figures: Mapping[str, float]) -> None:
        """Log them; MLflow takes fewer characters in a name."""
        now = round(1000 * time.time())
        metrics = [
            self._metric(re.sub(r"[^\w\-. :/]", "_", name), value, now, step)
            for name, value in figures.items()
        ]
        self._client.log_batch(self._id, metrics=metrics)

    def event(self, step: int, name: str, figures: Mapping[str, float]) -> None:
        """Log them under the name."""
        self.step(step, {f"{name}/{key}": value for key, value in figures.items()})

    def close(self) -> None:
        """Say that the run has ended."""
        self._client.set_terminated(self._id)
