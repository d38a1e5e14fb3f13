from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from export.runtime.clips import decode_clip
from simvtp.data import ClipRecord, probe, read_clip
from simvtp.data.preparing.checks import CheckedClip
from simvtp.data.preparing.inspection import inspect_video
from simvtp.data.preparing.transcode import Encoding, transcode
from simvtp.pipelines.prepare.report import ClipReport, check_table
from testing.data.video_files import set_matrix, write_video_file

RED, GREEN, BLUE, WHITE = (230, 30, 30), (30, 230, 30), (30, 30, 230), (230, 230, 230)
MATRICES = [(a, 0, 0, d) for a, d in product((1, -1), repeat=2)] + [
    (0, b, c, 0) for b, c in product((1, -1), repeat=2)
]


def quadrants(height: int, width: int) -> np.ndarray:
    rows = np.array([[RED, GREEN], [BLUE, WHITE]], np.uint8)
    return rows.repeat(height // 2, 0).repeat(width // 2, 1)


def as_matrix_says(picture: np.ndarray, matrix: tuple[int, int, int, int]) -> np.ndarray:
    """Each pixel moved to x' = a x + c y, y' = b x + d y, all of them then into view."""
    a, b, c, d = matrix
    rows, columns = np.mgrid[: picture.shape[0], : picture.shape[1]]
    across, down = a * columns + c * rows, b * columns + d * rows
    across, down = across - across.min(), down - down.min()
    shown = np.zeros((down.max() + 1, across.max() + 1, 3), np.uint8)
    shown[down, across] = picture
    return shown


def seen(path: Path) -> np.ndarray:
    return read_clip(path, num_frames=1)[0].permute(1, 2, 0).numpy()


def check_everywhere(path: Path, expected: np.ndarray, tmp_path: Path) -> None:
    """What training, the checks, serving and a transcoded file make of a video."""
    transcode(path, tmp_path / "new.mp4", encoding=Encoding())
    for file in (path, tmp_path / "new.mp4"):
        for info in (probe(file), inspect_video(file)):
            assert (info.height, info.width) == expected.shape[:2]
        assert np.abs(seen(file).astype(int) - expected).mean() < 10
    side = min(expected.shape[:2])
    top, left = ((length - side) // 2 for length in expected.shape[:2])
    served = decode_clip(path.read_bytes(), num_frames=1, frame_stride=1, image_size=side)
    middle = expected[top : top + side, left : left + side]
    assert np.abs(served[0].transpose(1, 2, 0).astype(int) - middle).mean() < 10


@pytest.mark.parametrize("matrix", MATRICES)
def test_turned_and_mirrored_pictures_are_shown_as_the_matrix_says(matrix, tmp_path):
    picture = quadrants(32, 64)
    path = write_video_file(tmp_path / "a.mp4", [picture] * 2)
    set_matrix(path, matrix)
    check_everywhere(path, as_matrix_says(picture, matrix), tmp_path)


@pytest.mark.parametrize(
    ("shape", "turn", "sides"),
    [
        (Fraction(2), (1, 0, 0, 1), (32, 128)),
        (Fraction(1, 2), (1, 0, 0, 1), (32, 32)),
        (Fraction(2), (0, 1, -1, 0), (128, 32)),
        # What rounding the width to an even number leaves.
        (Fraction(320, 321), (1, 0, 0, 1), (32, 64)),
        # No pixel is that wide.
        (Fraction(500), (1, 0, 0, 1), (32, 64)),
    ],
)
def test_pixels_that_are_not_square_are_squared(shape, turn, sides, tmp_path):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        stream.codec_context.sample_aspect_ratio = shape
        for _ in range(2):
            picture = av.VideoFrame.from_ndarray(quadrants(32, 64), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    set_matrix(path, turn)
    upright = sides if turn[0] else sides[::-1]
    check_everywhere(path, as_matrix_says(quadrants(*upright), turn), tmp_path)


@pytest.mark.parametrize(
    ("name", "codec", "pixel_format"),
    [("a.mov", "qtrle", "argb"), ("a.apng", "apng", "rgba"), ("a.mkv", "ffv1", "bgra")],
)
def test_what_can_be_seen_through_lies_over_white(name, codec, pixel_format, tmp_path):
    alpha = np.repeat(np.array([0, 64, 128, 255], np.uint8), 16)
    picture = np.full((32, 64, 4), (200, 40, 90, 0), np.uint8)
    picture[..., 3] = alpha
    path = tmp_path / name
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 32, pixel_format
        for _ in range(2):
            frame = av.VideoFrame.from_ndarray(picture, format="rgba")
            container.mux(stream.encode(frame.reformat(format=pixel_format)))
        container.mux(stream.encode())
    share = alpha[None, :, None] / 255
    expected = np.broadcast_to(picture[..., :3] * share + 255 * (1 - share), (32, 64, 3))
    assert np.abs(seen(path) - expected).max() <= 1
    check_everywhere(path, expected, tmp_path)


def test_see_through_parts_of_a_gif_are_white(tmp_path):
    path = tmp_path / "a.gif"
    numbers = np.repeat(np.array([[0, 1]], np.uint8), 32, 0).repeat(32, 1)
    pictures = [Image.fromarray(row) for row in (numbers, numbers[:, ::-1].copy())]
    for picture in pictures:
        picture.putpalette([*RED, *GREEN])
    pictures[0].save(path, save_all=True, append_images=pictures[1:], transparency=0, disposal=2)
    first = seen(path)
    assert first[8, 48].tolist() == list(GREEN)
    assert first[8, 16].tolist() == [255, 255, 255]


@pytest.mark.parametrize(("number", "name"), [(16, "PQ"), (18, "HLG"), (1, None)])
def test_pictures_of_high_dynamic_range_are_named(number, name, tmp_path, capsys):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p10le"
        stream.codec_context.color_trc = number
        picture = av.VideoFrame.from_ndarray(quadrants(32, 64), format="rgb24")
        container.mux(stream.encode(picture.reformat(format="yuv420p10le")))
        container.mux(stream.encode())
    assert inspect_video(path).high_range == name
    report = ClipReport()
    record = ClipRecord("a", path, ("a",))
    report.add(CheckedClip(record, 0, inspect_video(path), "", path, None))
    assert report.as_dict()["high_ranges"] == ({name: 1} if name else {})
    Console(width=120).print(check_table(report))
    printed = capsys.readouterr().out
    assert ("high dynamic range" in printed) == (name is not None)
    assert name is None or f"{name} (1)" in printed
