"""A video that crashes its decoder or holds it costs one request."""

import time

import numpy as np
import torch

from simvtp.pipelines.serve.models.model_folder import FolderModel
from testing.pipelines import crashing
from testing.pipelines.served import PATIENCE, Served


def test_crashes_and_hangs_cost_one_request(tiny):
    model = FolderModel(tiny, max_batch=2)
    model.read_clip = crashing.read_clip
    with Served(model, decode_seconds=1.5) as site:
        for content, said in (
            (b"crash", "the process that decoded it crashed (exit code "),
            (b"hang", "it was not decoded within 3 seconds"),
            (b"none", "the video cannot be read: it is none; send a whole file that plays"),
        ):
            status, told, _ = site.ask("/v1/videos/embeddings", content)
            assert status == 400
            assert told["error"]["code"] == "unreadable_video"
            assert said in told["error"]["message"]
        end = time.monotonic() + PATIENCE
        # The first job of a new process imports what it needs within its time.
        while (answer := site.ask("/v1/videos/embeddings", b"clip"))[0] != 200:
            assert time.monotonic() < end
        clip = torch.full((1, 4, 3, 32, 32), 7, dtype=torch.uint8)
        with torch.no_grad():
            expected = tiny.encode_video(clip)[0].numpy()
        row = np.float32(answer[1]["data"][0]["embedding"])
        np.testing.assert_array_equal(row, expected)
        assert site.figures()["simvtp_videos_decoding"] == 0
