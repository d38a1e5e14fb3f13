"""How far TensorRT is with an engine, as a progress bar, and a way to stop it."""

from typing import Any

from rich.progress import Progress, TaskID

from export.trt.library import Library
from export.trt.log import TensorRTLog


def watch_build(
    library: Library, config: Any, *, log: TensorRTLog, title: str, progress: Progress
) -> None:
    """Have a build reported as a task of a progress bar, and end it when Ctrl-C is pressed.

    Args:
        library: which TensorRT.
        config: of the build.
        log: of the build, told that it was stopped.
        title: of the task.
        progress: the bar.
    """

    class Monitor(library.module.IProgressMonitor):
        def __init__(self) -> None:
            library.module.IProgressMonitor.__init__(self)
            self.tasks: dict[str, TaskID] = {}

        # An exception that left these for C++ would end the process.
        def phase_start(self, name: str, parent: str | None, num_steps: int) -> None:
            try:
                if parent is None:
                    self.tasks[name] = progress.add_task(title, total=num_steps)
                for task in self.tasks.values():
                    progress.update(task, description=f"{title}: {name.lower()}")
            except KeyboardInterrupt:
                log.stopped = True

        def step_complete(self, name: str, step: int) -> bool:
            try:
                if name in self.tasks:
                    progress.update(self.tasks[name], completed=step + 1)
            except KeyboardInterrupt:
                log.stopped = True
            return not log.stopped

        def phase_finish(self, name: str) -> None:
            try:
                if name in self.tasks:
                    progress.remove_task(self.tasks.pop(name))
            except KeyboardInterrupt:
                log.stopped = True

    config.progress_monitor = Monitor()
