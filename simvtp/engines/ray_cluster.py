"""Stages on the machines of a Ray cluster: parts go to actors, and come back in order.

Whatever Ray loses, a process or a machine, costs the parts that it was at: others do them again.
A part that is done has been brought to this machine, so that it is never done twice.
"""

import logging
import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from heapq import heappop, heappush
from importlib.metadata import version
from itertools import islice
from typing import Any, NamedTuple, Self, TypeVar

import torch

import simvtp
from simvtp.engines.local import Stage
from simvtp.engines.parts import Part, PartView, parts_of
from simvtp.extras import needs
from simvtp.printing import counted

# Read when Ray is imported.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
with needs("ray", "--engine ray"):
    import ray
    from ray import exceptions as faults

Item = TypeVar("Item")
Result = TypeVar("Result")

# One in work and one that waits, so that an actor need not wait for this process.
_PARTS_PER_ACTOR = 2
# Parts that may be done before the one whose turn it is, for each actor.
_AHEAD_PER_ACTOR = 4
_MOST_LOSSES = 5
# Longer than a cluster that grows with demand takes to start a machine.
_PATIENCE_SECONDS = 600.0
_WAIT_SECONDS = 1.0
_CONNECT_SECONDS = 10.0
_LOST = (
    *(faults.RayActorError, faults.ObjectLostError, faults.NodeDiedError),
    *(faults.WorkerCrashedError, faults.OutOfMemoryError),
)


class ClusterError(ValueError):
    """A cluster that cannot do the work; the message says what to do."""


class ActorShape(NamedTuple):
    """What an actor takes up of its machine: cores, and GPUs or a share of one."""

    num_cpus: float
    num_gpus: float

    def __str__(self) -> str:
        gpus = f" and {counted(self.num_gpus, 'GPU')}" if self.num_gpus else ""
        return f"{counted(self.num_cpus, 'core')}{gpus}"


class _Worker:
    """An actor: it holds a stage, with its model, and does one part after the other."""

    def __init__(self, num_threads: int) -> None:
        # Sums of other numbers of threads may round differently.
        torch.set_num_threads(num_threads)
        self._reference: Any = None

    def software(self) -> dict[str, str]:
        return _software()

    def do(self, part: Part[Any], stage: list[Any]) -> list[Any]:
        """Results of a part; the stage comes as a reference, to be fetched once."""
        if stage[0] != self._reference:
            self._stage: Stage[Any, Any] = ray.get(stage[0])
            self._reference = stage[0]
            if missing := [folder for folder in self._stage.folders if not folder.is_dir()]:
                machine = ray.util.get_node_ip_address()
                raise ClusterError(
                    f"{missing[0]}: the machine {machine} has no such folder; it must lie on "
                    "storage that all machines share, under the same name"
                )
        return list(self._stage.results(PartView(part), part.start))


def _software() -> dict[str, str]:
    """Versions that results depend on."""
    packages = {name: version(name) for name in ("torch", "av", "numpy")}
    return {"simvtp": simvtp.__version__, **packages}


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Within this, Ray is that of a cluster; it reports to nobody.

    Args:
        address: HOST:PORT of its head; None: as the variable RAY_ADDRESS says, else one that runs
            on this machine, else one of this machine alone that ends with this.

    Raises:
        ClusterError: it cannot be reached.
    """
    is_main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM)
    told = {"log_to_driver": False, "logging_level": logging.ERROR, "include_dashboard": False}
    try:
        _require_open(address)
        ray.init(address=address, **told)
    except (OSError, RuntimeError, ValueError, ImportError, faults.RayError) as error:
        raise ClusterError(f"{address or 'Ray'}: cannot be reached ({error})") from error
    finally:
        # Ray puts its own in place, which would end this process unsaved.
        if is_main:
            signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        ray.shutdown()


def _require_open(address: str | None) -> None:
    """Refuse an address that nobody listens at, which Ray would try for minutes."""
    host, separator, port = (address or "").rpartition(":")
    if separator and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS).close()


class Cluster(NamedTuple):
    """Machines of a cluster, with all that they have, in use or not."""

    num_cpus: tuple[float, ...]
    num_gpus: tuple[float, ...]

    @classmethod
    def now(cls) -> Self:
        """The one that Ray is connected to."""
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        cpus, gpus = (tuple(each.get(name, 0.0) for each in machines) for name in ("CPU", "GPU"))
        return cls(cpus, gpus)

    def room(self, shape: ActorShape) -> int:
        """Actors that there is room for."""
        by_cpus = [int(cpus / shape.num_cpus) for cpus in self.num_cpus]
        if not shape.num_gpus:
            return sum(by_cpus)
        by_gpus = [int(gpus / shape.num_gpus) for gpus in self.num_gpus]
        return sum(map(min, by_cpus, by_gpus))

    def __str__(self) -> str:
        cpus, gpus = sum(self.num_cpus), sum(self.num_gpus)
        machines = counted(len(self.num_cpus), "machine")
        return f"{machines} with {counted(cpus, 'core')} and {counted(gpus, 'GPU')}"


class RayEngine:
    """Runs stages on actors of the cluster that this process is connected to.

    Args:
        shape: what an actor takes up.
        num_actors: how many there are at most, where there is room for them.
        part_size: least number of items of a part.
    """

    def __init__(self, *, shape: ActorShape, num_actors: int, part_size: int) -> None:
        self.device: str | None = "cuda" if shape.num_gpus else "cpu"
        self._shape = shape
        self._num_actors = num_actors
        self._part_size = part_size
        self._starting: dict[Any, Any] = {}
        # Parts given to each actor that is ready, the one in work first.
        self._given: dict[Any, list[Part[Any]]] = {}
        self._at: dict[Any, tuple[Any, Part[Any]]] = {}
        self._pending: list[Part[Any]] = []
        self._losses: Counter[int] = Counter()
        self._last_life = 0.0

    def run(
        self, stage: Stage[Item, Result], items: Sequence[Item], *, start: int = 0
    ) -> Generator[Result, None, None]:
        """Results of the items from number `start` on, in order, each once.

        Raises:
            ClusterError: no machine has room for an actor, has other versions of packages, or a
                part is lost again and again.
            Exception: whatever the stage raises.
        """
        reference = ray.put(stage)
        parts = parts_of(stage, items, start=start, size=self._part_size)
        self._pending, self._losses = [], Counter()
        self._last_life = time.monotonic()
        finished: dict[int, list[Result]] = {}
        turn, num_drawn = 0, 0
        try:
            while True:
                room = turn + _AHEAD_PER_ACTOR * self._num_actors - num_drawn
                for part in islice(parts, room):
                    heappush(self._pending, part)
                    num_drawn += 1
                if not self._pending and not self._at:
                    return
                self._start_actors()
                self._hand_out(reference)
                finished |= self._next_event()
                while turn in finished:
                    yield from finished.pop(turn)
                    turn += 1
        finally:
            self._end_busy_actors()

    def _end_busy_actors(self) -> None:
        """End what is still at parts that nobody waits for any more."""
        for actor in [actor for actor, parts in self._given.items() if parts]:
            ray.kill(actor)
            del self._given[actor]
        self._at = {}

    def _start_actors(self) -> None:
        wanted = min(self._num_actors, len(self._given) + len(self._pending))
        # Retries are ours: Ray's would wait for the room that a lost machine no longer gives.
        kind: Any = ray.remote(_Worker)
        options = {**self._shape._asdict(), "max_restarts": 0, "scheduling_strategy": "SPREAD"}
        for _ in range(wanted - len(self._given) - len(self._starting)):
            actor = kind.options(**options).remote(torch.get_num_threads())
            self._starting[actor.software.remote()] = actor

    def _hand_out(self, stage: Any) -> None:
        while self._pending and self._given:
            actor = min(self._given, key=lambda one: len(self._given[one]))
            if len(self._given[actor]) == _PARTS_PER_ACTOR:
                return
            part = heappop(self._pending)
            self._given[actor].append(part)
            self._at[actor.do.remote(part, [stage])] = actor, part

    def _next_event(self) -> dict[int, list[Any]]:
        """Wait for a part, or for an actor; results of the part by its number."""
        ready, _ = ray.wait([*self._at, *self._starting], timeout=_WAIT_SECONDS)
        self._require_life()
        if not ready:
            return {}
        reference = ready[0]
        actor = self._starting.pop(reference, None)
        part = None
        if actor is None:
            actor, part = self._at.pop(reference)
        try:
            value = ray.get(reference)
        except _LOST as error:
            if getattr(error, "actor_init_failed", False):
                reason = str(error).strip().splitlines()[-1]
                raise ClusterError(f"an actor cannot start on its machine: {reason}") from error
            self._replace(actor, error)
            return {}
        except faults.RayTaskError as error:
            raise error.cause from error
        if part is None:
            _require_same(value)
            self._given[actor] = []
            return {}
        self._given[actor].remove(part)
        return {part.number: value}

    def _replace(self, actor: Any, error: Exception) -> None:
        """Take the parts of a lost actor back; another one is started when they are handed out."""
        ray.kill(actor)
        parts = self._given.pop(actor, [])
        self._at = {ref: at for ref, at in self._at.items() if at[0] is not actor}
        for part in parts:
            heappush(self._pending, part)
        # Perhaps the one before it was done and its result was lost: it is done elsewhere then.
        for part in parts[:1]:
            self._losses[part.number] += 1
            if self._losses[part.number] == _MOST_LOSSES:
                reason = str(error).strip().partition("\n")[0]
                raise ClusterError(
                    f"the {len(part.items)} clips from number {part.start} on were lost with their "
                    f"actor {_MOST_LOSSES} times ({reason}): mend that, or take them out; the same "
                    "command goes on"
                ) from error

    def _require_life(self) -> None:
        now = time.monotonic()
        if self._given:
            self._last_life = now
        elif now - self._last_life > _PATIENCE_SECONDS:
            raise ClusterError(
                f"no machine of the cluster has had {self._shape} free for an actor within "
                f"{_PATIENCE_SECONDS:g} seconds: add machines, or ask for less with --workers or "
                "--gpus-per-actor; the same command goes on"
            )


def _require_same(software: dict[str, str]) -> None:
    """Refuse a machine whose results may differ."""
    own = _software()
    if software != own:
        raise ClusterError(
            f"a machine of the cluster has {software}, and this one {own}: install the same "
            "everywhere"
        )
