"""From an ONNX file to the bytes of a TensorRT engine; the same for both libraries."""

import resource
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from rich.progress import Progress, TaskID

from export.runtime.engine_file import Profile
from export.trt.library import Library
from export.trt.log import TensorRTLog, native_output_logged, open_log
from export.trt.parse import BuildError, parse_graph
from export.trt.settings import Plan
from simvtp.files import write_whole

_GIB = 1 << 30


class BuiltEngine(NamedTuple):
    """An engine in memory and what its build took.

    Attributes:
        data: what goes into the file.
        seconds: time of parsing and building.
        peak_bytes: most memory of the process while it was built.
        network: layers that the parser made of the graph, by type, before any was fused.
    """

    data: bytes
    seconds: float
    peak_bytes: int
    network: dict[str, int]


def build_engine(
    plan: Plan, onnx_file: Path, *, profile: Profile, progress: Progress
) -> BuiltEngine:
    """Parse a graph and build its engine, strongly typed: the graph says every precision.

    Args:
        plan: with what and for which GPUs.
        onnx_file: the graph.
        profile: shapes of its inputs.
        progress: shows how far the build is.

    Raises:
        BuildError: the graph cannot be parsed or built.
        KeyboardInterrupt: it was stopped.
        OSError: the timing cache cannot be read or written.
    """
    library = plan.library
    log = open_log(library)
    _forget_peak()
    started = time.perf_counter()
    builder = library.module.Builder(log)
    network = parse_graph(library, builder, onnx_file, log)
    config = _configure(plan, builder)
    if not _add_profile(builder, config, profile):
        raise BuildError(f"{onnx_file.name}: TensorRT refuses the profile{log.reasons()}")
    watch_build(library, config, log=log, title=onnx_file.stem, progress=progress)
    with native_output_logged():
        data = builder.build_serialized_network(network, config)
    if log.stopped:
        raise KeyboardInterrupt
    if data is None:
        raise BuildError(f"TensorRT {library.version} cannot build {onnx_file.name}{log.reasons()}")
    _save_timings(config, plan.settings.timing_cache)
    seconds = time.perf_counter() - started
    return BuiltEngine(bytes(data), seconds, _peak_bytes(), _layers(network))


def _configure(plan: Plan, builder: Any) -> Any:
    settings, module = plan.settings, plan.library.module
    config = builder.create_builder_config()
    config.profiling_verbosity = module.ProfilingVerbosity.DETAILED
    flags = {
        module.BuilderFlag.VERSION_COMPATIBLE: settings.version_compatible,
        module.BuilderFlag.REFIT: settings.refittable,
        # On unless it is cleared, and then a graph in float32 is not computed in float32.
        module.BuilderFlag.TF32: settings.tf32,
    }
    for flag, wanted in flags.items():
        (config.set_flag if wanted else config.clear_flag)(flag)
    if settings.workspace is not None:
        pool = module.MemoryPoolType.WORKSPACE
        config.set_memory_pool_limit(pool, round(settings.workspace * _GIB))
    if plan.library.backend == "rtx":
        config.num_compute_capabilities = len(plan.compute_capabilities)
        for place, capability in enumerate(plan.compute_capabilities):
            name = f"SM{capability.replace('.', '')}"
            config.set_compute_capability(getattr(module.ComputeCapability, name), place)
    _load_timings(config, settings.timing_cache)
    return config


def _add_profile(builder: Any, config: Any, profile: Profile) -> bool:
    shapes = builder.create_optimization_profile()
    for tensor, sizes in profile.items():
        shapes.set_shape(tensor, sizes.smallest, sizes.usual, sizes.largest)
    return config.add_optimization_profile(shapes) >= 0


def _load_timings(config: Any, file: Path | None) -> None:
    if file is not None:
        known = file.read_bytes() if file.is_file() else b""
        cache = config.create_timing_cache(known)
        if cache is None or not config.set_timing_cache(cache, False):
            raise BuildError(f"{file} is no timing cache of this TensorRT and GPU; remove it")


def _save_timings(config: Any, file: Path | None) -> None:
    if file is not None:
        write_whole(file, bytes(config.get_timing_cache().serialize()))


def _layers(network: Any) -> dict[str, int]:
    types = (str(network.get_layer(place).type) for place in range(network.num_layers))
    return dict(Counter(name.rpartition(".")[2] for name in types).most_common())


def _forget_peak() -> None:
    # Linux then counts the process's peak from here on; elsewhere it is that of the whole process.
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak_bytes() -> int:
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


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
