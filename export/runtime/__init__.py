"""An exported folder run without the model, on ONNX Runtime and TensorRT without torch too."""

from export.runtime.folder_runtime import Runtime

__all__ = ["Runtime"]
