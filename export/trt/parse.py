"""What TensorRT's parser makes of an ONNX file, or why it cannot read it."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from export.trt.library import Library
from export.trt.log import TensorRTLog, native_output_logged, one_line, open_log


class BuildError(Exception):
    """TensorRT cannot read a graph or build its engine."""


class OperatorSupport(NamedTuple):
    """An operator of a graph, how many nodes have it, and of how many the parser says no."""

    operator: str
    nodes: int
    unsupported: int


class GraphSupport(NamedTuple):
    """Operators of a graph, and why some are not supported: node, operator, reason."""

    operators: tuple[OperatorSupport, ...]
    reasons: tuple[str, ...]


def graph_support(library: Library, onnx_file: Path) -> GraphSupport:
    """What the parser says of each operator of a graph; nothing is built.

    Raises:
        BuildError: the file is no ONNX graph.
    """
    import onnx

    log = open_log(library)
    builder = library.module.Builder(log)
    network = builder.create_network(_flags(library))
    parser = library.module.OnnxParser(network, log)
    try:
        nodes = onnx.load(onnx_file, load_external_data=False).graph.node
    except Exception as error:  # The protobuf library raises errors of its own.
        raise BuildError(f"{onnx_file} cannot be read as ONNX: {error}") from error
    with native_output_logged():
        fits = parser.supports_model_v2(onnx_file.read_bytes(), str(onnx_file))
    supported = set(range(len(nodes)))
    if not fits:
        supported = {
            place
            for part in range(parser.num_subgraphs)
            if parser.is_subgraph_supported(part)
            for place in parser.get_subgraph_nodes(part)
        }
    total = Counter(node.op_type for node in nodes)
    without = Counter(node.op_type for place, node in enumerate(nodes) if place not in supported)
    return GraphSupport(
        tuple(OperatorSupport(name, count, without[name]) for name, count in total.most_common()),
        tuple(_reasons(parser)),
    )


def parse_graph(library: Library, builder: Any, onnx_file: Path, log: TensorRTLog) -> Any:
    """The network of a graph, strongly typed: the graph says every precision.

    Raises:
        BuildError: the parser cannot read the graph.
    """
    network = builder.create_network(_flags(library))
    parser = library.module.OnnxParser(network, log)
    with native_output_logged():
        parsed = parser.parse_from_file(str(onnx_file))
    if not parsed:
        raise BuildError(
            f"TensorRT {library.version} cannot read {onnx_file}: "
            + ("; ".join(_reasons(parser)) or log.reasons().removeprefix(": "))
        )
    _allow_unfused_attention(library.module, network)
    return network


def _allow_unfused_attention(module: Any, network: Any) -> None:
    # ONNX's operator for attention is else one kernel or nothing, and there is none for float32.
    attention = getattr(module.LayerType, "ATTENTION_INPUT", None)
    for place in range(network.num_layers):
        layer = network.get_layer(place)
        if layer.type == attention:
            layer.__class__ = module.IAttentionInputLayer
            layer.attention.decomposable = True


def _reasons(parser: Any) -> Iterator[str]:
    return (_reason(parser.get_error(place)) for place in range(parser.num_errors))


def _reason(error: Any) -> str:
    said = one_line(error.desc())
    if not error.node_name() and not error.node_operator():
        return said
    # Of an operator that it does not have, the parser says no more than that it asserts false.
    reason = "the parser does not have this operator" if said == "false" else said
    return (
        f"node {error.node()} {error.node_name()!r}, operator {error.node_operator()}: "
        f"{str(error.code()).rpartition('.')[2]} {reason} ({error.func()})"
    )


def _flags(library: Library) -> int:
    return 1 << int(library.module.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
