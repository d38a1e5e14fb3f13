"""An index of vectors that a test makes up."""

import io

import torch
from PIL import Image
from torch.nn import functional

from simvtp.retrieval.video_index import VideoIndex
from simvtp.retrieval.video_index.tables import About
from simvtp.retrieval.video_index.writer import IndexWriter, Moment


def jpeg(grey):
    file = io.BytesIO()
    Image.new("RGB", (64, 48), (grey, grey, grey)).save(file, "JPEG")
    return file.getvalue()


def make(folder, videos):
    """An index of videos by name: their moments' vectors, seconds and bytes."""
    width = 6
    writer = IndexWriter(folder, About("some/model", "0" * 64, width, (str(folder),), {}))
    for name, (rows, duration, size) in videos.items():
        vectors = functional.normalize(torch.tensor(rows).reshape(-1, width), dim=-1)
        moments = [
            Moment(float(n), n + 1.0, jpeg(200 if name == "repainted.mp4" else 100))
            for n in range(len(vectors))
        ]
        writer.add(name, moments, vectors, duration=duration, size=size)
    writer.finish()
    return VideoIndex.open(folder)


def axis(*places):
    return torch.eye(6)[list(places)].tolist()
