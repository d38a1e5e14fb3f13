"""How far TensorRT is with an engine, as a progress bar, and a way to stop it."""

from typing import Any, Protocol

from rich.progress import Progress, TaskID

from export.trt_library import Library


class BuildMonitor(Protocol):
    """What TensorRT reports to; `stopped` once Ctrl-C was pressed."""

    stopped: bool


def watch_build(library: Library, config: Any, *, title: str, progress: Progress) -> BuildMonitor:
    """Have a build reported as a task of a progress bar.

    Args:
        library: which TensorRT.
        config: of the build, which must not outlive what is returned.
        title: of the task.
        progress: the bar.
    """

    class Monitor(library.module.IProgressMonitor):
        def __init__(self) -> None:
            library.module.IProgressMonitor.__init__(self)
            self.stopped = False
            self.tasks: dict[str, TaskID] = {}

        # An exception that left these for C++ would end the process.
        def phase_start(self, name: str, parent: str | None, num_steps: int) -> None:
            try:
                if parent is None:
                    self.tasks[name] = progress.add_task(title, total=num_steps)
                for task in self.tasks.values():
                    progress.update(task, description=f"{title}: {name.lower()}")
            except KeyboardInterrupt:
                self.stopped = True

        def step_complete(self, name: str, step: int) -> bool:
            try:
                if name in self.tasks:
                    progress.update(self.tasks[name], completed=step + 1)
            except KeyboardInterrupt:
                self.stopped = True
            return not self.stopped

        def phase_finish(self, name: str) -> None:
            try:
                if name in self.tasks:
                    progress.remove_task(self.tasks.pop(name))
            except KeyboardInterrupt:
                self.stopped = True

    monitor = Monitor()
    config.progress_monitor = monitor
    return monitor
