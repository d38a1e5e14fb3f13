"""A folder of drawn clips, some of which are copies of others: encoded anew, shrunk or cut."""

from pathlib import Path

import av

from simvtp.data.corpus.rendering import render_scenes
from simvtp.data.corpus.scenes import sample_scenes

NUM_DIFFERENT = 6
# Each copy, and the clip that is kept for it: a cut one is shorter, so it is the one to leave out.
COPIES = {"again.mp4": "0.mp4", "small.mp4": "2.mp4", "cut.mp4": "5.mp4"}


def encode(source: Path, target: Path, *, crf: int, size: int, start: float = 0.0) -> None:
    with av.open(str(source)) as container, av.open(str(target), "w") as out:
        stream = container.streams.video[0]
        options = {"crf": str(crf), "preset": "veryfast"}
        made = out.add_stream("libx264", rate=stream.average_rate, options=options)
        made.width, made.height, made.pix_fmt = size, size, "yuv420p"
        number = 0
        for frame in container.decode(stream):
            if frame.time < start:
                continue
            picture = frame.reformat(size, size, "yuv420p")
            picture.pts, picture.time_base = number, 1 / stream.average_rate
            picture.pict_type = av.video.frame.PictureType.NONE
            number += 1
            out.mux(made.encode(picture))
        out.mux(made.encode(None))


def plant(folder: Path) -> Path:
    """Six clips of four seconds and three copies in a folder, each with its caption beside it."""
    scenes = sample_scenes(NUM_DIFFERENT, split="validation", seed=1)
    settings = {"size": 128, "num_frames": 64, "num_processes": 1, "progress": False}
    drawn = render_scenes(folder.with_name("drawn"), scenes, **settings)
    folder.mkdir()
    for number, (path, scene) in enumerate(zip(drawn, scenes, strict=True)):
        encode(path, folder / f"{number}.mp4", crf=20, size=128)
        (folder / f"{number}.txt").write_text(scene.caption)
    encode(drawn[0], folder / "again.mp4", crf=35, size=128)
    encode(drawn[2], folder / "small.mp4", crf=28, size=96)
    encode(drawn[5], folder / "cut.mp4", crf=24, size=128, start=1.0)
    for copy, kept in COPIES.items():
        caption = folder / Path(kept).with_suffix(".txt")
        (folder / Path(copy).with_suffix(".txt")).write_text(caption.read_text())
    return folder
