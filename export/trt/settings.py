"""What to build an engine with, and for which sizes of its inputs."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from export.runtime.engine_file import Profile, Shape, ShapeRange
from export.runtime.folder import GraphSpec, Range
from export.trt.library import Library, MissingError

_MOST_WORKSPACE = 1 << 20


@dataclass(frozen=True, kw_only=True)
class BuildSettings:
    """Settings of a build.

    Args:
        workspace: GiB that a layer may use beside its inputs and outputs; None: no limit.
        timing_cache: file of measured kernels, read if it exists and written after the build.
        version_compatible: later minor versions of the library may run the engine too.
        refittable: other weights of the same model may be put into the engine.
        tf32: products of float32 may round their factors to TF32, which has float16's mantissa.
    """

    workspace: float | None = None
    timing_cache: Path | None = None
    version_compatible: bool = False
    refittable: bool = False
    tf32: bool = False

    def __post_init__(self) -> None:
        if self.workspace is not None and not 0 < self.workspace <= _MOST_WORKSPACE:
            raise ValueError(
                f"workspace must be above 0 GiB and at most {_MOST_WORKSPACE}, got "
                f"{self.workspace}; leave it out for no limit"
            )


class Plan(NamedTuple):
    """What to build with, and for what.

    Attributes:
        library: which TensorRT.
        compute_capabilities: of the GPUs that are to run the engines.
        settings: of the build.
        ranges: of symbolic dimensions, where they are narrower than exported.
    """

    library: Library
    compute_capabilities: tuple[str, ...]
    settings: BuildSettings
    ranges: dict[str, Range]

    def profile(self, graph: GraphSpec) -> Profile:
        """Shapes of a graph's inputs.

        Raises:
            ValueError: a range exceeds the one that the graph was exported with.
        """
        return graph_profile(graph, self._ranges(graph))

    def narrowed(self, graph: GraphSpec) -> GraphSpec:
        """The graph with the ranges that its engine has."""
        return replace(graph, ranges={**graph.ranges, **self._ranges(graph)})

    def _ranges(self, graph: GraphSpec) -> dict[str, Range]:
        return {name: sizes for name, sizes in self.ranges.items() if name in graph.ranges}


def check_options(library: Library, settings: BuildSettings) -> None:
    """See that a library can build with settings on this machine.

    Raises:
        MissingError: they need a GPU, and there is none.
        ValueError: they are not for this library.
    """
    if library.backend == "rtx" and settings.timing_cache is not None:
        raise ValueError(
            "TensorRT-RTX times no kernels when it builds, it chooses them where the engine runs; "
            "leave --timing-cache out, it is for --backend tensorrt"
        )
    if library.backend == "rtx" and settings.version_compatible:
        raise ValueError(
            "version-compatible engines hold TensorRT's lean runtime, which TensorRT-RTX's package "
            "lacks; leave --version-compatible out, or take --backend tensorrt"
        )
    if library.gpu is None and settings.refittable:
        raise MissingError(
            f"refittable engines are compiled on the GPU, and {library.cuda.missing}; run this on "
            "a machine with a GPU, or leave --refittable out"
        )
    cache = settings.timing_cache
    # polygraphy writes over whatever it cannot read as one.
    if cache is not None and (
        cache.suffix != ".cache" or cache.is_dir() or not cache.parent.is_dir()
    ):
        raise ValueError(
            f"--timing-cache must be a file NAME.cache in a folder that exists, got {cache}"
        )


def graph_profile(graph: GraphSpec, ranges: Mapping[str, Range]) -> Profile:
    """Shapes of a graph's inputs at the ends and the middle of the ranges.

    Args:
        graph: the graph, whose declared ranges bound the others.
        ranges: of symbolic dimensions; those left out are the declared ones.

    Raises:
        ValueError: a dimension is unknown, or its range exceeds the declared one.
    """
    for name, asked in ranges.items():
        declared = graph.ranges.get(name)
        if declared is None:
            raise ValueError(
                f"graph {graph.name!r} has no dimension {name!r}, only {', '.join(graph.ranges)}"
            )
        if asked.smallest < declared.smallest or asked.largest > declared.largest:
            raise ValueError(
                f"{name} of a profile must lie in {declared.smallest} to {declared.largest}, as "
                f"graph {graph.name!r} was exported, got {asked.smallest} to {asked.largest}; "
                "export it with a wider range, or narrow the profile"
            )
    used = {**graph.ranges, **ranges}

    def shape(sizes: tuple[int | str, ...], end: str) -> Shape:
        return tuple(s if isinstance(s, int) else getattr(used[s], end) for s in sizes)

    return {
        tensor.name: ShapeRange(
            *(shape(tensor.shape, end) for end in ("smallest", "usual", "largest"))
        )
        for tensor in graph.inputs
    }
