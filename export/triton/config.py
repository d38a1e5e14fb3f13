"""Triton's config.pbtxt of every model in the repository, as its own protobuf messages."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from export.runtime.folder import GraphSpec, TensorSpec

BACKENDS = ("onnxruntime", "tensorrt", "pytorch", "python")
DEVICES = ("cpu", "gpu")
# Made at import from their description, so that no type checker knows them.
_MESSAGES: Any = model_config_pb2
Config = Any
_TYPES = {
    "uint8": _MESSAGES.TYPE_UINT8,
    "int64": _MESSAGES.TYPE_INT64,
    "float32": _MESSAGES.TYPE_FP32,
    "string": _MESSAGES.TYPE_STRING,
}
_KINDS = {
    "cpu": _MESSAGES.ModelInstanceGroup.KIND_CPU,
    "gpu": _MESSAGES.ModelInstanceGroup.KIND_GPU,
}
_FILES = {
    "onnxruntime": "model.onnx",
    "tensorrt": "model.plan",
    "pytorch": "model.pt2",
    "python": "model.py",
}
_PLATFORMS = {"tensorrt": "tensorrt_plan", "pytorch": "torch_aoti"}
# What each backend calls the parameter; Triton's PyTorch backend sets torch's for all its models.
_THREADS = {
    "onnxruntime": "intra_op_thread_count",
    "pytorch": "INTRA_OP_THREAD_COUNT",
    "python": "threads",
}
_FIRST_LENGTH = 8


@dataclass(frozen=True, kw_only=True)
class ServingSettings:
    """Settings of a repository.

    Args:
        backend: what runs the graphs: Triton's ONNX Runtime, TensorRT or PyTorch backend, or ONNX
            Runtime within its Python backend, for servers that have no other.
        device: where the graphs run.
        instances: copies of each graph.
        queue_delay: microseconds that a request waits for others to share its batch.
        threads: of each graph on the CPU; None leaves it to ONNX Runtime.
        top: clips that `search` returns.
        caption_lengths: numbers of tokens that captions are padded to, beside the largest. Requests
            of different lengths share no batch, so few lengths make large batches and many save
            work. None takes the usual length on a GPU and doubles from 8 on the CPU.
    """

    backend: str = "onnxruntime"
    device: str = "gpu"
    instances: int = 1
    queue_delay: int = 2000
    threads: int | None = None
    top: int = 10
    caption_lengths: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        for name, known in (("backend", BACKENDS), ("device", DEVICES)):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}"
                )
        for name, least in (("instances", 1), ("queue_delay", 0), ("top", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"threads must be at least 1, got {self.threads}")
        if self.backend == "tensorrt" and self.device == "cpu":
            raise ValueError("TensorRT runs on GPUs only, got device cpu; use backend onnxruntime")
        if self.backend == "tensorrt" and self.threads is not None:
            raise ValueError("engines have no threads on the CPU; leave threads out")


def graph_config(graph: GraphSpec, settings: ServingSettings, *, vocab_size: int) -> Config:
    """Config of a graph: batched, warmed up, with its ranges kept.

    Args:
        graph: as report.json or an engine's profile has it.
        settings: of the repository.
        vocab_size: number of token ids.
    """
    config = _base(graph.name, graph.inputs, graph.outputs, graph.ranges["batch"].largest)
    if settings.backend in _PLATFORMS:
        config.platform = _PLATFORMS[settings.backend]
    else:
        config.backend = settings.backend
    config.default_model_filename = _FILES[settings.backend]
    config.instance_group.add(count=settings.instances, kind=_KINDS[settings.device])
    sizes = graph.ranges["batch"]
    preferred = sorted({sizes.usual, sizes.largest} - {1})
    config.dynamic_batching.preferred_batch_size.extend(preferred)
    config.dynamic_batching.max_queue_delay_microseconds = settings.queue_delay
    if "tokens" in graph.ranges:
        tokens = graph.ranges["tokens"]
        _set(config, tokens=f"{tokens.smallest},{tokens.largest}", vocab_size=vocab_size)
    if settings.threads is not None:
        _set(config, **{_THREADS[settings.backend]: settings.threads})
    for batch in sorted({sizes.smallest, sizes.usual}):
        _warm_up(config, graph, batch)
    if settings.backend == "pytorch":
        _number_tensors(config, tensor_numbers(graph))
    return config


def tensor_numbers(graph: GraphSpec) -> dict[str, str]:
    """What Triton's PyTorch backend calls the tensors of compiled code, by the graph's names."""
    return {
        tensor.name: f"{side}__{number}"
        for side, tensors in (("INPUT", graph.inputs), ("OUTPUT", graph.outputs))
        for number, tensor in enumerate(tensors)
    }


def python_config(
    name: str,
    *,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    max_batch: int,
    parameters: Mapping[str, Any],
    instances: int = 1,
) -> Config:
    """Config of a model that is Python code on the CPU."""
    config = _base(name, inputs, outputs, max_batch)
    config.backend = "python"
    config.default_model_filename = _FILES["python"]
    config.instance_group.add(count=instances, kind=_KINDS["cpu"])
    _set(config, **parameters)
    return config


def ensemble_config(
    name: str,
    steps: Sequence[Config],
    *,
    returned: Sequence[str],
    names: Mapping[str, Mapping[str, str]] | None = None,
) -> Config:
    """Config of models one after the other, whose inputs and outputs are joined by their names.

    Args:
        name: of the ensemble.
        steps: configs of its models, in the order of the work.
        returned: outputs of the steps that the ensemble has.
        names: by model and tensor, where a model calls a tensor otherwise than the others.
    """
    known = names or {}

    def named(step: Config, tensors: Iterable[Any]) -> dict[str, Any]:
        return {known.get(step.name, {}).get(one.name, one.name): one for one in tensors}

    made = {key: tensor for step in steps for key, tensor in named(step, step.output).items()}
    wanted = {key: tensor for step in steps for key, tensor in named(step, step.input).items()}
    config = _MESSAGES.ModelConfig(
        name=name, platform="ensemble", max_batch_size=min(step.max_batch_size for step in steps)
    )
    config.version_policy.latest.num_versions = 1
    for key, tensor in wanted.items():
        if key not in made:
            config.input.add(name=key, data_type=tensor.data_type, dims=tensor.dims)
    for key in returned:
        config.output.add(name=key, data_type=made[key].data_type, dims=made[key].dims)
    for step in steps:
        part = config.ensemble_scheduling.step.add(model_name=step.name, model_version=-1)
        for key, tensor in named(step, step.input).items():
            part.input_map[tensor.name] = key
        for key, tensor in named(step, step.output).items():
            part.output_map[tensor.name] = key
    return config


def caption_lengths(graphs: Iterable[GraphSpec], settings: ServingSettings) -> list[int]:
    """Lengths that captions are padded to, such that all graphs with captions take them.

    Raises:
        ValueError: a length of the settings is out of the graphs' ranges.
    """
    ranges = [graph.ranges["tokens"] for graph in graphs if "tokens" in graph.ranges]
    smallest = max(tokens.smallest for tokens in ranges)
    largest = min(tokens.largest for tokens in ranges)
    lengths = settings.caption_lengths
    if lengths is None and settings.device == "gpu":
        lengths = (min(largest, max(tokens.usual for tokens in ranges)),)
    elif lengths is None:
        doubled = (_FIRST_LENGTH << times for times in range(largest.bit_length()))
        lengths = tuple(length for length in doubled if smallest <= length <= largest)
    for length in lengths:
        if not smallest <= length <= largest:
            raise ValueError(
                f"caption lengths must be from {smallest} to {largest}, the tokens that the graphs "
                f"were exported for, got {length}"
            )
    return sorted({*lengths, largest})


def print_config(config: Config) -> str:
    """The text of config.pbtxt, which is parsed once more to be sure that Triton can.

    Raises:
        ValueError: it is not the same message.
    """
    text = text_format.MessageToString(config)
    if text_format.Parse(text, _MESSAGES.ModelConfig()) != config:
        raise ValueError(f"the config of {config.name} cannot be written as text")
    return text


def _base(
    name: str, inputs: Iterable[TensorSpec], outputs: Iterable[TensorSpec], max_batch: int
) -> Config:
    config = _MESSAGES.ModelConfig(name=name, max_batch_size=max_batch)
    config.version_policy.latest.num_versions = 1
    for tensors, field in ((inputs, config.input), (outputs, config.output)):
        for tensor in tensors:
            # The batch is not among the dimensions; a graph's other symbols may have any size.
            dims = [size if isinstance(size, int) else -1 for size in tensor.shape[1:]]
            added = field.add(name=tensor.name, data_type=_TYPES[tensor.dtype], dims=dims or [1])
            if not dims:
                # One number for each row: Triton's dimensions may not be none, the graph's are.
                added.reshape.SetInParent()
    return config


def _set(config: Config, **parameters: Any) -> None:
    for name, value in parameters.items():
        config.parameters[name].string_value = str(value)


def _warm_up(config: Config, graph: GraphSpec, batch: int) -> None:
    request = config.model_warmup.add(name=f"batch of {batch}", batch_size=batch)
    for tensor in graph.inputs:
        sizes = [
            size if isinstance(size, int) else graph.ranges[size].usual for size in tensor.shape[1:]
        ]
        value = request.inputs[tensor.name]
        value.data_type = _TYPES[tensor.dtype]
        value.dims.extend(sizes)
        if tensor.name == "attention_mask":
            # A caption of padding alone is no caption.
            value.input_data_file = tensor.name
        else:
            value.zero_data = True


def _number_tensors(config: Config, numbers: Mapping[str, str]) -> None:
    for tensor in (*config.input, *config.output):
        tensor.name = numbers[tensor.name]
    for request in config.model_warmup:
        for name in list(request.inputs):
            request.inputs[numbers[name]].CopyFrom(request.inputs[name])
            del request.inputs[name]
