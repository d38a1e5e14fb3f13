import pytest
from hypothesis import given
from hypothesis import strategies as st

from export.trt.program import describe_program, read_program
from export.trt.sidecar import summarize_layers

HEADER = """
header {
  tf32=0
  accelerators={%s}
}
descriptors {
  tensor={ alignment=128 const_payload_size=393216 dims={ 2 } name="a_dconst" type=half }
  tensor={ alignment=128 const_payload_size=12 dims={ 3 } name="b_dconst" type=float }
  tensor={ alignment=128 const_payload_size=128 dims={ 3 } name="c_dconst" type=half }
  tensor={ alignment=128 dims={ 1 } name="x" type=half }
}
"""
MAIN = """main {
 label bb1:
  shape_call={ name="x" stream=0 }
  function={ name=__myl_Tran args={ "a" } layers="[ONNX Layer: node_permute]" }
  fully_connected={ name="m" input={"a" } layers="[ONNX Layer: node_matmul]" }
  function={ name=mha layers="[ONNX Layer: node_mm][ONNX Layer: node_softmax]" fmha_batch="b" }
  runtime_fusion={ name=__myl_FcAdd layers="[ONNX Layer: node_linear]" backbone=gemm }
}
shape_main {
  function={ name=on_the_host layers="" }
}
"""


UNCLOSED = b"accelerators={sm89 \nmain {\n}"


def program(*targets):
    return (HEADER % "".join(f"sm{target} " for target in targets) + MAIN).encode()


def test_what_runs_on_the_gpu_is_counted():
    noise = bytes(range(256)) * 9
    found = read_program(noise + program(80, 120) + noise)
    assert found.compute_capabilities == ("8.0", "12.0")
    assert found.layers == {
        "generated kernel": 2,
        "matrix product": 1,
        "matrix product with what follows": 1,
    }
    assert found.fused_attention == (("node_mm", "node_softmax"),)
    assert found.weight_bytes == {"fp16": 393216 + 128, "fp32": 12}
    described = describe_program(found)
    assert described["count"] == 4
    assert described["fused_attention"] == {"count": 1, "names": ["node_mm + node_softmax"]}


def test_several_programs_are_added_up():
    one, two = read_program(program(89)), read_program(program(89) + b"..." + program(89))
    assert two.compute_capabilities == one.compute_capabilities == ("8.9",)
    assert two.layers == {kind: 2 * count for kind, count in one.layers.items()}
    assert two.weight_bytes == {kind: 2 * size for kind, size in one.weight_bytes.items()}


@given(st.integers(0, len(program(89))), st.binary(max_size=40))
def test_damaged_engines_say_less_but_raise_nothing(keep, noise):
    found = read_program(noise + program(89)[:keep])
    assert found is None or sum(found.layers.values()) <= 4


@pytest.mark.parametrize(
    "engine", [b"", b"accelerators={sm89 }", b"accelerators={sm89 }\nmain {", UNCLOSED]
)
def test_an_engine_of_another_form_says_nothing(engine):
    assert read_program(engine) is None


def test_fused_attention_is_found_in_what_the_inspector_says():
    layers = [
        {"Name": "mm", "LayerType": "gemm", "TacticName": "sm80_xmma_gemm"},
        {"Name": "node_of_fmha_1", "LayerType": "kgen", "TacticName": "x"},
        {"Name": "y", "LayerType": "kgen", "TacticName": "_gemm_mha_v2"},
        "plain name",
    ]
    summary = summarize_layers(layers)
    assert summary["count"] == 4
    assert summary["by_type"] == {"kgen": 2, "gemm": 1, "unknown": 1}
    assert summary["fused_attention"] == {"count": 2, "names": ["node_of_fmha_1", "y"]}


def test_names_of_any_bytes_are_told():
    engine = program(89).replace(b"node_softmax", b"node_\xff")
    assert read_program(engine).fused_attention == (("node_mm", "node_\ufffd"),)
