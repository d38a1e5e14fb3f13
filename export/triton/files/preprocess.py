"""Triton's Python backend: the bytes of video files to clips as the graphs take them."""

import json
import time

import numpy as np
import triton_python_backend_utils as pb_utils
from clips import decode_clip

from simvtp.decoding.limits import ClipError, Limits


class TritonPythonModel:
    """Each request holds `VIDEO` (batch, 1), the bytes of files, and gets `frames`."""

    def initialize(self, args):
        """Read how clips are cut, and what a request may cost."""
        parameters = json.loads(args["model_config"])["parameters"]
        # Seconds or a stride, whichever the model was trained with.
        types = {"num_frames": int, "image_size": int, "frame_seconds": float, "frame_stride": int}
        self.cut = {
            name: number(parameters[name]["string_value"])
            for name, number in types.items()
            if name in parameters
        }
        names = ("max_bytes", "max_frames", "max_pixels", "max_decoded")
        self.limits = Limits(*(int(parameters[name]["string_value"]) for name in names))
        self.seconds = float(parameters["max_seconds"]["string_value"])

    def execute(self, requests):
        """Answer every request, with the reason where its videos cannot be read."""
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        videos = pb_utils.get_input_tensor_by_name(request, "VIDEO").as_numpy().ravel()
        try:
            frames = self._frames(videos)
        except ClipError as error:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error)))
        return pb_utils.InferenceResponse(output_tensors=[pb_utils.Tensor("frames", frames)])

    def _frames(self, videos):
        # All videos of a request share its time.
        end = time.monotonic() + self.seconds
        clips = []
        for video in videos:
            left = max(1e-6, end - time.monotonic())
            clips.append(decode_clip(bytes(video), **self.cut, time_limit=left, limits=self.limits))
        return np.stack(clips)
