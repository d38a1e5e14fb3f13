"""Videos whose brightness tells the second, by names and with captions that would do harm."""

from pathlib import Path

import av
import numpy as np

RATE = 8
SECONDS = 8
HOSTILE = '<img src=x onerror="window.harm=1">'
# Name of the file, caption, and what the vector of its moment from second 3 on is of.
FILES = (
    ("holidays/plain.mp4", "A Dog runs", "a red circle moves left"),
    (
        f"{HOSTILE.replace('/', '')} '\"&.mp4",
        f"{HOSTILE}</p><script>window.harm=1</script> ${{window.harm=1}} {{{{7*7}}}}",
        "a blue square moves right",
    ),
    ("\u202e4pm.exe \U0001f600.mp4", "\u05d0\u05d1\u05d2 \u202etxet \U0001f600", "a green ring"),
    ("old.avi", None, "two yellow stars"),
    ("../../../../../../../../etc/passwd", "a secret", "a white triangle grows"),
    ("way out.mp4", None, "a small purple cross"),
    ("gone.mp4", None, "an orange shape that is gone"),
)


def brightness(second: float) -> int:
    return 20 + 25 * int(second)


def write_video(path: Path, codec: str = "libx264", seconds: int = SECONDS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(f"file:{path}", "w") as container:
        stream = container.add_stream(codec, rate=RATE)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for number in range(RATE * seconds):
            picture = np.full((64, 64, 3), brightness(number / RATE), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path
