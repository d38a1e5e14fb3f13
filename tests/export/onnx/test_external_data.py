"""Files that an ONNX file names lie beside it."""

from argparse import Namespace
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from export.onnx.external_data import external_files
from export.trt.source import find_source


def _outside(name: str, location: str) -> TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[1])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return tensor


def _model(tensor: TensorProto, *, constant: bool) -> onnx.ModelProto:
    value = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    made = helper.make_node("Constant", [], ["w"], value=tensor)
    nodes = [made] if constant else []
    nodes.append(helper.make_node("Identity", ["w"], ["y"]))
    graph = helper.make_graph(nodes, "g", [], [value], [] if constant else [tensor])
    return helper.make_model(graph)


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("location", ["/etc/hostname", "../secret", "a/b"])
def test_weights_lie_beside_their_graph(tmp_path: Path, location: str, constant: bool):
    model = _model(_outside("w", location), constant=constant)
    assert external_files(model) == (location,)
    (tmp_path / "g.onnx").write_bytes(model.SerializeToString())
    options = Namespace(model=None, onnx=tmp_path / "g.onnx", graphs=None)
    with pytest.raises(ValueError, match="is not a file beside it"):
        find_source(options, {})


def test_weights_are_no_link_to_elsewhere(tmp_path: Path):
    (tmp_path / "secret").write_bytes(b"1234")
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "w.data").symlink_to(tmp_path / "secret")
    model = _model(_outside("w", "w.data"), constant=False)
    (folder / "g.onnx").write_bytes(model.SerializeToString())
    options = Namespace(model=None, onnx=folder / "g.onnx", graphs=None)
    with pytest.raises(ValueError, match="is a link out of its folder"):
        find_source(options, {})
