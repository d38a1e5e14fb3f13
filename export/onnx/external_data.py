"""The files beside an ONNX file that hold its weights."""

from collections.abc import Iterator

import onnx
from google.protobuf.message import Message
from onnx.external_data_helper import ExternalDataInfo, uses_external_data


def external_files(model: onnx.ModelProto) -> tuple[str, ...]:
    """Names of the files, relative to the model's own, in alphabetical order.

    Those of every tensor that the file holds, wherever it stands: a runtime reads them all.
    """
    tensors = filter(uses_external_data, _tensors(model))
    return tuple(sorted({ExternalDataInfo(tensor).location for tensor in tensors}))


def _tensors(message: Message) -> Iterator[onnx.TensorProto]:
    for field, value in message.ListFields():
        if field.type != field.TYPE_MESSAGE:
            continue
        for part in [value] if isinstance(value, Message) else value:
            if isinstance(part, onnx.TensorProto):
                yield part
            else:
                yield from _tensors(part)
