"""Triton's Python backend: the clips of a gallery that are closest to a caption."""

import json
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Each request holds `text_embed` (batch, width) and gets `ids` and `scores`, best first."""

    def initialize(self, args):
        """Load the gallery that lies beside this file."""
        place = Path(__file__).parent
        self.gallery = np.load(place / "gallery.npy", allow_pickle=False)
        self.ids = np.array(json.loads((place / "gallery.json").read_text("utf-8")), dtype=object)
        parameters = json.loads(args["model_config"])["parameters"]
        self.top = int(parameters["top"]["string_value"])

    def execute(self, requests):
        """Answer every request."""
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        embedded = pb_utils.get_input_tensor_by_name(request, "text_embed").as_numpy()
        scores = embedded @ self.gallery.T
        best = np.argpartition(-scores, self.top - 1, axis=1)[:, : self.top]
        found = np.take_along_axis(scores, best, axis=1)
        order = np.argsort(-found, axis=1, kind="stable")
        best, found = (np.take_along_axis(part, order, axis=1) for part in (best, found))
        tensors = [pb_utils.Tensor("ids", self.ids[best]), pb_utils.Tensor("scores", found)]
        return pb_utils.InferenceResponse(output_tensors=tensors)
