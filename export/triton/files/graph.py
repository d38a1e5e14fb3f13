"""Triton's Python backend: an ONNX graph on ONNX Runtime, for servers without its backend."""

import json
from pathlib import Path

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils
from token_checks import check_attention_mask, check_indices


class TritonPythonModel:
    """Requests whose inputs have equal shapes are run as one batch."""

    def initialize(self, args):
        """Open the graph that lies beside this file."""
        config = json.loads(args["model_config"])
        options = onnxruntime.SessionOptions()
        threads = config["parameters"].get("threads")
        if threads is not None:
            options.intra_op_num_threads = int(threads["string_value"])
        self.session = onnxruntime.InferenceSession(
            str(Path(__file__).with_name("model.onnx")), options, providers=_providers(args)
        )
        self.inputs = [tensor.name for tensor in self.session.get_inputs()]
        self.outputs = [tensor.name for tensor in self.session.get_outputs()]
        if "token_ids" in self.inputs:
            tokens, vocabulary = (
                config["parameters"][name]["string_value"] for name in ("tokens", "vocab_size")
            )
            self.fewest, self.most = (int(size) for size in tokens.split(","))
            self.vocab_size = int(vocabulary)

    def execute(self, requests):
        """Answer every request, with the reason where its inputs are out of range."""
        responses = [None] * len(requests)
        alike = {}
        for number, request in enumerate(requests):
            arrays = [
                pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in self.inputs
            ]
            try:
                self._check(dict(zip(self.inputs, arrays, strict=True)))
            except ValueError as error:
                responses[number] = _refusal(str(error))
                continue
            shapes = tuple(array.shape[1:] for array in arrays)
            alike.setdefault(shapes, []).append((number, arrays))
        for group in alike.values():
            self._answer(group, responses)
        return responses

    def _answer(self, group, responses):
        numbers, arrays = zip(*group, strict=True)
        batch = {
            name: np.concatenate(parts)
            for name, parts in zip(self.inputs, zip(*arrays, strict=True), strict=True)
        }
        try:
            results = self.session.run(self.outputs, batch)
        except Exception as error:  # ONNX Runtime's errors share no class but this.
            for number in numbers:
                responses[number] = _refusal(f"the graph failed: {error}")
            return
        ends = np.cumsum([len(parts[0]) for parts in arrays])[:-1]
        pieces = zip(*(np.split(result, ends) for result in results), strict=True)
        for number, outputs in zip(numbers, pieces, strict=True):
            tensors = [
                pb_utils.Tensor(name, np.ascontiguousarray(output))
                for name, output in zip(self.outputs, outputs, strict=True)
            ]
            responses[number] = pb_utils.InferenceResponse(output_tensors=tensors)

    def _check(self, inputs):
        """See that the captions of a request are fit to share a batch with those of others."""
        if "token_ids" not in inputs:
            return
        ids, mask = inputs["token_ids"], inputs["attention_mask"]
        if ids.shape != mask.shape:
            raise ValueError(
                f"token_ids and attention_mask must be alike, got {ids.shape} and {mask.shape}"
            )
        if not self.fewest <= ids.shape[1] <= self.most:
            raise ValueError(f"tokens must lie in {self.fewest} to {self.most}, got {ids.shape[1]}")
        check_attention_mask(mask)
        advice = "use the tokenizer that the model was trained with"
        check_indices("token_ids", ids, count=self.vocab_size, advice=advice)


def _providers(args):
    """ONNX Runtime's providers for the device of a model instance; none is replaced silently."""
    on_cpu = "CPUExecutionProvider"
    if args["model_instance_kind"] != "GPU":
        return [on_cpu]
    on_gpu = "CUDAExecutionProvider"
    if on_gpu not in onnxruntime.get_available_providers():
        raise pb_utils.TritonModelException(
            f"onnxruntime here has no {on_gpu}; pip install onnxruntime-gpu, or generate the "
            "repository with --device cpu"
        )
    return [(on_gpu, {"device_id": args["model_instance_device_id"]}), on_cpu]


def _refusal(reason):
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(reason))
