"""What an engine of TensorRT-RTX is made of, read from its own bytes, where no GPU can load it.

The library keeps the compiled program in the engine as text. Its form is documented nowhere, so
nothing depends on it but what is told of an engine.
"""

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

_TARGETS = b"accelerators={sm"
# On the GPU runs what stands between these; the arithmetic of shapes follows after it.
_BEGIN, _END = b"\nmain {", b"\n}"
_STATEMENT = re.compile(rb"^[ \t]*(\w+)=\{ name=\"?([^\" \n]*)\"?(.*)$", re.MULTILINE)
_GRAPH_NODE = re.compile(rb"\[ONNX Layer: ([^\]\"]*)\]")
_WEIGHT = re.compile(rb"const_payload_size=(\d+) .*type=(\w+) ?\}$", re.MULTILINE)
_KINDS = {
    b"function": "generated kernel",
    b"runtime_fusion": "matrix product with what follows",
    b"fully_connected": "matrix product",
}
_PRECISIONS = {"float": "fp32", "half": "fp16"}


class EngineProgram(NamedTuple):
    """The program of an engine.

    Attributes:
        compute_capabilities: of the GPUs that it was compiled for.
        layers: how many of each kind.
        fused_attention: for each attention that is one kernel, the nodes of the ONNX graph in it.
        weight_bytes: bytes of weights by precision.
    """

    compute_capabilities: tuple[str, ...]
    layers: dict[str, int]
    fused_attention: tuple[tuple[str, ...], ...]
    weight_bytes: dict[str, int]


def read_program(engine: bytes) -> EngineProgram | None:
    """The program in an engine's bytes; None where there is none in the form that is known here."""
    targets: list[str] = []
    layers: Counter[str] = Counter()
    fused: list[tuple[str, ...]] = []
    weights: Counter[str] = Counter()
    for header, main in _programs(engine):
        names = re.findall(rb"sm(\d+)(\d)\b", header.partition(b"}")[0])
        targets += (f"{major.decode()}.{minor.decode()}" for major, minor in names)
        for size, kind in _WEIGHT.findall(header):
            name: str = kind.decode()
            weights[_PRECISIONS.get(name, name)] += int(size)
        for kind, _, rest in _STATEMENT.findall(main):
            if kind in _KINDS:
                layers[_KINDS[kind]] += 1
            if b"fmha" in rest:
                nodes = _GRAPH_NODE.findall(rest)
                fused.append(tuple(node.decode(errors="replace") for node in nodes))
    if not layers:
        return None
    return EngineProgram(tuple(dict.fromkeys(targets)), dict(layers), tuple(fused), dict(weights))


def describe_program(program: EngineProgram) -> dict[str, Any]:
    """A program as an engine's sidecar tells of it."""
    return {
        "source": "the program text in the engine",
        "count": sum(program.layers.values()),
        "by_type": program.layers,
        "fused_attention": {
            "count": len(program.fused_attention),
            "names": [" + ".join(nodes) for nodes in program.fused_attention],
        },
        "weight_bytes": program.weight_bytes,
    }


def _programs(engine: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Header and main part of every program; `bytes.find` is quick where a pattern is not."""
    place = engine.find(_TARGETS)
    while place >= 0:
        begin = engine.find(_BEGIN, place)
        end = engine.find(_END, begin)
        if begin < 0 or end < 0:
            return
        yield engine[place:begin], engine[begin:end]
        place = engine.find(_TARGETS, end)
