"""Options that say what the work of a command runs on."""

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from simvtp.command_line import at_least
from simvtp.engines.local import Engine, LocalEngine
from simvtp.printing import Console

_PART_SIZE = 256
_OF_RAY = ("ray_address", "actors", "gpus_per_actor", "part_size")


def add_engine(parser: ArgumentParser, *, computes: bool) -> None:
    """Let a command take `--engine` and what goes with it.

    Args:
        parser: of the command.
        computes: whether it computes with a model, on GPUs where there are any.
    """
    group = parser.add_argument_group("on several machines")
    add = group.add_argument
    add("--engine", choices=("local", "ray"), default="local", help="ray: simvtp[ray]; local")
    add("--ray-address", metavar="HOST:PORT", help="of the cluster; default: RAY_ADDRESS, or here")
    said = "processes that do parts, each with --workers; default: as many as there is room for"
    add("--actors", type=at_least(1), metavar="N", help=said)
    if computes:
        said = "1, or a share such as 0.5; default: 1 where the cluster has GPUs"
        add("--gpus-per-actor", type=_share, metavar="X", help=said)
    add("--part-size", type=at_least(1), metavar="N", help=f"videos of a part; {_PART_SIZE}")


def _share(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise ArgumentTypeError(f"must lie in (0, 1], got {text}; --device cpu leaves GPUs out")
    return value


@contextmanager
def chosen_engine(options: Namespace, console: Console) -> Iterator[Engine]:
    """The engine that was asked for; a cluster is left at the end.

    Args:
        options: as `add_engine` has them, with `workers` and perhaps `device`.
        console: gets a note about the cluster.

    Raises:
        ValueError: the options do not go together, or the cluster cannot be reached.
        MissingPackageError: Ray is not there.
    """
    if options.engine == "local":
        if given := [name for name in _OF_RAY if getattr(options, name, None) is not None]:
            raise ValueError(f"--{given[0].replace('_', '-')} goes with --engine ray")
        yield LocalEngine()
        return
    from simvtp.engines.ray_cluster import ActorShape, Cluster, RayEngine, connected

    with connected(options.ray_address):
        cluster = Cluster.now()
        num_gpus = _num_gpus(options, there=sum(cluster.num_gpus))
        # Where there is no GPU, the model takes the cores that it has here.
        computes = hasattr(options, "gpus_per_actor") and not num_gpus
        num_threads = torch.get_num_threads() if computes else 1
        shape = ActorShape(max(num_threads, options.workers), num_gpus)
        num_actors = options.actors or max(1, cluster.room(shape))
        console.note(f"ray: {cluster}; {num_actors} actors of {shape}")
        if not cluster.room(shape):
            console.note("ray: no machine has that much, so the work waits for one that does")
        part_size = options.part_size or _PART_SIZE
        yield RayEngine(shape=shape, num_actors=num_actors, part_size=part_size)


def _num_gpus(options: Namespace, *, there: float) -> float:
    if not hasattr(options, "gpus_per_actor"):
        return 0.0
    if options.device == "cpu" and options.gpus_per_actor is not None:
        raise ValueError("--gpus-per-actor takes GPUs and --device cpu none: leave one out")
    wants = options.device == "cuda" or options.gpus_per_actor is not None
    if options.device == "cpu" or not (wants or there):
        return 0.0
    return 1.0 if options.gpus_per_actor is None else options.gpus_per_actor
