"""Triton's Python backend: captions to token ids, padded to one of a few lengths."""

import json
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils
from captions import MAX_CHARACTERS, encode_captions, load_tokenizer


class TritonPythonModel:
    """Each request holds `TEXT` (batch, 1) and gets `token_ids`, `attention_mask`."""

    def initialize(self, args):
        """Load the tokenizer that lies beside this file."""
        parameters = json.loads(args["model_config"])["parameters"]
        self.tokenizer = load_tokenizer(Path(__file__).with_name("tokenizer.json"))
        self.max_length = int(parameters["max_length"]["string_value"])
        self.lengths = [int(size) for size in parameters["lengths"]["string_value"].split(",")]

    def execute(self, requests):
        """Answer every request, with the reason where its captions are faulty."""
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        try:
            texts = pb_utils.get_input_tensor_by_name(request, "TEXT").as_numpy().ravel()
            captions = [_decoded(text) for text in texts]
            encoded = encode_captions(self.tokenizer, captions, max_length=self.max_length)
            longest = encoded.token_ids.shape[1]
            # Requests of one length can share a batch.
            fitting = [size for size in self.lengths if size >= longest]
            if not fitting:
                raise ValueError(
                    f"a caption must have at most {self.lengths[-1]} tokens, got {longest}; "
                    "shorten it, or export the graphs for longer ones (--tokens)"
                )
        except (ValueError, UnicodeError) as error:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error)))
        columns = ((0, 0), (0, min(fitting) - longest))
        padding = self.tokenizer.token_to_id("[PAD]")
        token_ids = np.pad(encoded.token_ids, columns, constant_values=padding)
        mask = np.pad(encoded.attention_mask, columns)
        tensors = [
            pb_utils.Tensor("token_ids", token_ids),
            pb_utils.Tensor("attention_mask", mask),
        ]
        return pb_utils.InferenceResponse(output_tensors=tensors)


def _decoded(text):
    """A caption's text; what is too long in any script is not decoded."""
    if isinstance(text, bytes):
        if len(text) > 4 * MAX_CHARACTERS:
            raise ValueError(
                f"a caption may have {MAX_CHARACTERS} characters, got {len(text)} bytes; shorten it"
            )
        return text.decode("utf-8")
    return str(text)
