"""What polygraphy is told: networks and configurations of the real library, without a GPU."""

import json
import os
import subprocess
import sys
from dataclasses import asdict

import pytest
import torch

from export.graphs import build_graph
from export.onnx.graph_file import write_graph
from export.runtime.folder import Range
from testing.export.rtx import needs_rtx

DTYPES = {"FLOAT": torch.float32, "HALF": torch.float16, "BF16": torch.bfloat16}
RANGES = {"batch": Range(1, 2, 4), "tokens": Range(3, 8, 16)}


def run(code, *arguments):
    """What code prints as JSON in a process whose polygraphy is that of TensorRT-RTX."""
    printed = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=os.environ | {"POLYGRAPHY_USE_TENSORRT_RTX": "1"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return json.loads(printed.splitlines()[-1])


NETWORK = """
import json, sys
import tensorrt_rtx as trt
from export.trt.engines import read_network
builder, network, parser = read_network(sys.argv[1])()
layers = [network.get_layer(place) for place in range(network.num_layers)]
products = [layer for layer in layers if layer.type == trt.LayerType.MATRIX_MULTIPLY]
attention = [layer for layer in layers if layer.type == trt.LayerType.ATTENTION_INPUT]
for layer in attention:
    layer.__class__ = trt.IAttentionInputLayer
print(json.dumps({
    "typed": network.get_flag(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED),
    "products": sorted({layer.get_output(0).dtype.name for layer in products}),
    "decomposable": [layer.attention.decomposable for layer in attention],
}))
"""


@needs_rtx
@pytest.mark.parametrize(
    ("precision", "opset"), [("FLOAT", 20), ("FLOAT", 23), ("HALF", 23), ("BF16", 20)]
)
def test_a_network_has_the_types_of_its_graph(exported_model, tmp_path, precision, opset):
    file = tmp_path / "text.onnx"
    graph = build_graph(exported_model, "text", dtype=DTYPES[precision], opset=opset)
    config = asdict(exported_model.config)
    write_graph(graph, file, name="text", config=config, ranges=RANGES, opset=opset)
    told = run(NETWORK, file)
    assert told["typed"]
    assert told["products"] == [precision]
    # ONNX has an operator for attention from opset 23 on; each block has one.
    blocks = exported_model.config.depth if opset == 23 else 0
    assert told["decomposable"] == [True] * blocks


CONFIG = """
import json, sys
import tensorrt_rtx as trt
from polygraphy.backend.trt import CreateNetwork
from export.runtime.engine_file import ShapeRange
from export.trt.engines import build_config
from export.trt.library import open_library
from export.trt.settings import BuildSettings, Plan
flags = trt.BuilderFlag
settings = BuildSettings(**json.loads(sys.argv[1]))
plan = Plan(open_library("rtx"), ("8.9", "12.0"), settings, {})
builder, network = CreateNetwork(strongly_typed=True)()
x = network.add_input("x", trt.float32, (-1, 3))
network.mark_output(network.add_identity(x).get_output(0))
config = build_config(plan, {"x": ShapeRange((1, 3), (2, 3), (4, 3))})(builder, network)
print(json.dumps({
    "flags": [flag.name for flag in (flags.TF32, flags.REFIT) if config.get_flag(flag)],
    "capabilities": [
        config.get_compute_capability(place).name
        for place in range(config.num_compute_capabilities)
    ],
    "profiles": config.num_optimization_profiles,
    "workspace": config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE),
}))
"""


@needs_rtx
def test_float32_is_not_rounded_to_tf32_unless_asked_for():
    plain = run(CONFIG, json.dumps({}))
    assert plain["flags"] == []
    assert plain["capabilities"] == ["SM89", "SM120"]
    assert plain["profiles"] == 1
    assert plain["workspace"] > 1 << 30
    asked = run(CONFIG, json.dumps({"tf32": True, "refittable": True, "workspace": 0.5}))
    assert asked["flags"] == ["TF32", "REFIT"]
    assert asked["workspace"] == 1 << 29
