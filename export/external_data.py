"""The files beside an ONNX file that hold its weights."""

import onnx
from onnx.external_data_helper import ExternalDataInfo, uses_external_data


def external_files(model: onnx.ModelProto) -> tuple[str, ...]:
    """Names of the files, relative to the model's own, in alphabetical order."""
    tensors = filter(uses_external_data, model.graph.initializer)
    return tuple(sorted({ExternalDataInfo(tensor).location for tensor in tensors}))
