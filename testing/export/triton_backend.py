"""Triton's Python backend, as far as a model file asks it."""

import importlib.util
import json
import sys
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2


def configs_of(repository):
    return {
        file.parent.name: text_format.Parse(file.read_text(), model_config_pb2.ModelConfig())
        for file in repository.glob("*/config.pbtxt")
    }


class Request(dict):
    """What the Python backend hands to a model: tensors by name."""

    def __init__(self, **tensors):
        super().__init__(tensors)


class BackendTensors:
    """The calls of triton_python_backend_utils that models make, over plain arrays."""

    class Tensor:
        def __init__(self, name, array):
            self.name, self.array = name, array

        def as_numpy(self):
            return self.array

    TritonError = str
    TritonModelException = RuntimeError

    @classmethod
    def get_input_tensor_by_name(cls, request, name):
        return cls.Tensor(name, request[name])

    @staticmethod
    def InferenceResponse(output_tensors=(), error=None):
        return error or {tensor.name: tensor.array for tensor in output_tensors}


def load_backend_model(file: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", BackendTensors)
    monkeypatch.syspath_prepend(str(file.parent))
    spec = importlib.util.spec_from_file_location("backend_model", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.TritonPythonModel()


def as_json(config):
    values = {name: {"string_value": one.string_value} for name, one in config.parameters.items()}
    return json.dumps({"parameters": values})
