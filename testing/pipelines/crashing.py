"""A decoder that does what a file says."""

import os
import time

import numpy as np

from simvtp.decoding.limits import ClipError
from simvtp.pipelines.serve.models.served_model import ClipJob


def read_clip(job: ClipJob) -> np.ndarray:
    content = job.file.read_bytes() if job.file.is_file() else b""
    if content == b"crash":
        os.abort()
    if content == b"hang":
        time.sleep(1000)
    if content != b"clip":
        raise ClipError(f"cannot read a clip of {job.file}: it is none")
    return np.full((4, 3, 32, 32), 7, np.uint8)
