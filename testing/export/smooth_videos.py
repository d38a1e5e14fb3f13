"""Videos whose pictures change smoothly, so that resizing them is no matter of taste."""

from pathlib import Path

import av
import numpy as np


def write_video(
    file: Path, *, num_frames=20, width=64, height=48, seed=0, codec="libx264", tags=None
):
    """Smooth pictures that move and change their colour."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    with av.open(f"file:{file}", "w") as container:
        container.metadata.update(tags or {})
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height = width, height
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.gop_size = 6
        for number in range(num_frames):
            phase = 0.3 * number + seed
            channels = (np.sin(6 * x + phase), np.cos(5 * y - phase), np.sin(4 * (x + y) + phase))
            picture = (127 + 100 * np.stack(channels, axis=-1)).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return file
