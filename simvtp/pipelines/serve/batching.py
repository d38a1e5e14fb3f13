"""Rows of several requests computed in one forward pass, out of a queue with an end."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, NamedTuple, TypeVar

from simvtp.pipelines.serve.metrics import Metrics
from simvtp.pipelines.serve.refusals import busy
from simvtp.pipelines.serve.settings import Task

Row = TypeVar("Row")
Result = TypeVar("Result")
# Share of the latest pass in the mean that tells how long a queue takes.
_LATEST = 0.2


class Turn:
    """The one thread that computes: passes take all cores, or the GPU, one at a time."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._begun: float | None = None

    @property
    def seconds(self) -> float:
        """How long the pass under way has taken; 0 where there is none."""
        return 0.0 if self._begun is None else time.monotonic() - self._begun

    async def run(
        self, compute: Callable[[Sequence[Row]], Iterable[Result]], rows: Sequence[Row]
    ) -> Iterable[Result]:
        """Compute in the thread; the lock must be held."""
        self._begun = time.monotonic()
        try:
            return await asyncio.get_running_loop().run_in_executor(self.thread, compute, rows)
        finally:
            self._begun = None


class _Waiting(NamedTuple, Generic[Row, Result]):
    row: Row
    result: "asyncio.Future[Result]"
    since: float


class Batcher(Generic[Row, Result]):
    """Takes rows from requests, and computes as many of them together as there are.

    Args:
        compute: results of some rows, in order; called in the thread of the turn.
        task: what it computes.
        turn: shared with whatever else computes.
        max_batch: rows of a pass at most.
        max_wait: seconds that the first row waits for others.
        queue: rows that may wait.
        metrics: where passes are counted.
    """

    def __init__(
        self,
        compute: Callable[[Sequence[Row]], Iterable[Result]],
        *,
        task: Task,
        turn: Turn,
        max_batch: int,
        max_wait: float,
        queue: int,
        metrics: Metrics,
    ) -> None:
        self._compute = compute
        self._task = task
        self._turn = turn
        self._max_batch = max_batch
        self._max_wait = max_wait
        self._capacity = queue
        self._metrics = metrics
        self._rows: deque[_Waiting[Row, Result]] = deque()
        self._changed = asyncio.Event()
        self._seconds_of_row = 0.0
        self._is_closing = False
        metrics.queue.labels(task).set_function(lambda: len(self._rows))
        self._loop = asyncio.create_task(self._work())

    async def compute(self, rows: Sequence[Row]) -> list[Result]:
        """Results of the rows of one request, in order.

        Raises:
            Refusal: the queue has no room for them.
        """
        if len(self._rows) + len(rows) > self._capacity:
            raise busy(
                f"{len(self._rows)} rows wait to be computed, and the queue holds "
                f"{self._capacity}; ask again later, or send fewer inputs",
                seconds=self._seconds_of_row * len(self._rows),
            )
        loop, now = asyncio.get_running_loop(), time.monotonic()
        waiting = [_Waiting[Row, Result](row, loop.create_future(), now) for row in rows]
        self._rows.extend(waiting)
        self._changed.set()
        # A request that is given up cancels its rows, which are then left out.
        return await asyncio.gather(*(one.result for one in waiting))

    async def close(self) -> None:
        """Compute what waits, and end."""
        self._is_closing = True
        self._changed.set()
        await self._loop

    async def _work(self) -> None:
        while True:
            self._changed.clear()
            if not self._rows:
                if self._is_closing:
                    return
                await self._changed.wait()
                continue
            await self._wait_for_more()
            async with self._turn.lock:
                # Here, since more have come while others computed.
                if batch := self._next_batch():
                    await self._run(batch)

    async def _wait_for_more(self) -> None:
        end = self._rows[0].since + self._max_wait
        while len(self._rows) < self._max_batch and (left := end - time.monotonic()) > 0:
            self._changed.clear()
            try:
                async with asyncio.timeout(left):
                    await self._changed.wait()
            except TimeoutError:
                return

    def _next_batch(self) -> list[_Waiting[Row, Result]]:
        batch: list[_Waiting[Row, Result]] = []
        while self._rows and len(batch) < self._max_batch:
            if not (waiting := self._rows.popleft()).result.done():
                batch.append(waiting)
        return batch

    async def _run(self, batch: list[_Waiting[Row, Result]]) -> None:
        begun = time.monotonic()
        try:
            results = await self._turn.run(self._compute, [waiting.row for waiting in batch])
        except Exception as error:  # Whatever it is, those who wait are told.
            for waiting in batch:
                if not waiting.result.done():
                    waiting.result.set_exception(error)
            return
        for waiting, result in zip(batch, results, strict=True):
            if not waiting.result.done():
                waiting.result.set_result(result)
        self._count(len(batch), time.monotonic() - begun)

    def _count(self, num_rows: int, seconds: float) -> None:
        mean = self._seconds_of_row or seconds / num_rows
        self._seconds_of_row = mean + _LATEST * (seconds / num_rows - mean)
        self._metrics.inputs.labels(self._task).inc(num_rows)
        self._metrics.batch_rows.labels(self._task).observe(num_rows)
        self._metrics.batch_seconds.labels(self._task).observe(seconds)
