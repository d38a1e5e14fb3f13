"""Triton's Python backend: the bytes of video files to clips as the graphs take them."""

import json

import numpy as np
import triton_python_backend_utils as pb_utils
from clips import decode_clip

from simvtp.decoding.video_file import ClipError


class TritonPythonModel:
    """Each request holds `VIDEO` (batch, 1), the bytes of files, and gets `frames`."""

    def initialize(self, args):
        """Read how clips are cut."""
        parameters = json.loads(args["model_config"])["parameters"]
        # Seconds or a stride, whichever the model was trained with.
        types = {"num_frames": int, "image_size": int, "frame_seconds": float, "frame_stride": int}
        self.cut = {
            name: number(parameters[name]["string_value"])
            for name, number in types.items()
            if name in parameters
        }

    def execute(self, requests):
        """Answer every request, with the reason where its videos cannot be read."""
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        videos = pb_utils.get_input_tensor_by_name(request, "VIDEO").as_numpy().ravel()
        try:
            frames = np.stack([decode_clip(bytes(video), **self.cut) for video in videos])
        except ClipError as error:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error)))
        return pb_utils.InferenceResponse(output_tensors=[pb_utils.Tensor("frames", frames)])
