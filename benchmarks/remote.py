"""A step in a process of its own, so that each has its own memory and allocator setting."""

from collections.abc import Callable
from types import TracebackType
from typing import Any

import torch
from torch import multiprocessing

from benchmarks.components import component_seconds
from benchmarks.contestants import Contestant
from benchmarks.flops import count_flops
from benchmarks.measure import Clock, peak_memory, step_seconds
from simvtp.training import keep_freed_memory


class RemoteStep:
    """Builds a contestant in a new process and measures it there when asked; waits in between.

    Args:
        build: makes the contestant; a function of a module, with arguments that can be pickled.
        arguments: its keyword arguments.
        keep_memory: call `keep_freed_memory` there first, as the pre-training job does.
        clock: which seconds count.
    """

    def __init__(
        self,
        build: Callable[..., Contestant],
        arguments: dict[str, Any],
        *,
        keep_memory: bool,
        clock: Clock = "wall",
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, build, arguments, keep_memory, clock), daemon=True
        )
        self._process.start()
        theirs.close()

    def seconds(self) -> float:
        """Seconds of one step."""
        return self._ask("seconds")

    def flops(self) -> float:
        """Operations of one step, counted."""
        return self._ask("flops")

    def memory(self) -> int:
        """Largest number of bytes that a step holds beyond weights and optimiser."""
        return self._ask("memory")

    def components(self) -> dict[str, float]:
        """Seconds of each part of a step of the library."""
        return self._ask("components")

    def __enter__(self) -> "RemoteStep":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._connection.close()
        self._process.join(timeout=10)
        self._process.kill()

    def _ask(self, question: str) -> Any:
        try:
            self._connection.send(question)
            return self._connection.recv()
        except (EOFError, OSError) as error:
            raise RuntimeError(
                f"the process that measures {question} died; if the machine ran out of memory, "
                "choose fewer --contestants or --clips"
            ) from error


def _serve(
    connection: Any,
    build: Callable[..., Contestant],
    arguments: dict[str, Any],
    keep_memory: bool,
    clock: Clock,
) -> None:
    if keep_memory:
        keep_freed_memory()
    contestant = build(**arguments)
    device = contestant.device
    answers: dict[str, Callable[[], Any]] = {
        "seconds": lambda: step_seconds(contestant.run, device, clock),
        "flops": lambda: count_flops(contestant.run),
        "memory": lambda: peak_memory(contestant.run, device),
        "components": lambda: component_seconds(contestant),
    }
    while True:
        try:
            question = connection.recv()
        except (EOFError, KeyboardInterrupt):
            return
        answer = answers[question]()
        if device.type == "cuda":
            # The others' turn: all share the device's memory.
            torch.cuda.empty_cache()
        connection.send(answer)
