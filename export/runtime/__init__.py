"""An exported folder run on ONNX Runtime or TensorRT, without torch."""

from export.runtime.folder_runtime import Runtime

__all__ = ["Runtime"]
