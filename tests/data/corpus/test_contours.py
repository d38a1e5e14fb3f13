"""Contours of the embedded corpus lie where its clips show them."""

import numpy as np
import pytest
import torch

from simvtp.config import DEFAULT_SPACING, FrameSpacing
from simvtp.data import ViewDataset, load_manifest
from simvtp.data.corpus.contours import corpus_contours, holds_contour
from simvtp.data.corpus.drawing import cover_scene
from simvtp.data.corpus.rendering import render_corpus
from simvtp.data.corpus.scenes import sample_scenes

CUT = {"num_frames": 8, "image_size": 64, "tubelet": (2, 8, 8)}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("contours")
    return render_corpus(folder, num_train=1, num_validation=6, num_processes=1, progress=False)


def test_a_tubelet_holds_a_contour_where_it_is_covered_in_part():
    cover = torch.rand(4, 8, 8, generator=torch.Generator().manual_seed(0))
    cover[:2, :4] = 0.9
    cover[2:, 4:, :4] = 0.2
    found = holds_contour(cover, tubelet=(2, 4, 4)).tolist()
    expected = []
    for time in (0, 2):
        for row in (0, 4):
            for column in (0, 4):
                part = cover[time : time + 2, row : row + 4, column : column + 4].flatten().tolist()
                expected.append(max(part) > 0.7 and min(part) < 0.3)
    assert found == expected
    assert 0 < sum(found) < 8


@pytest.mark.parametrize(
    ("spacing", "frames"),
    [(DEFAULT_SPACING, range(0, 32, 4)), (FrameSpacing(stride=1), range(12, 20))],
)
def test_contours_are_those_of_the_clip_that_is_read(drawn, spacing, frames):
    records = load_manifest(drawn.validation)
    found = corpus_contours(records, spacing=spacing, **CUT)
    dataset = ViewDataset(records, num_frames=8, spacing=spacing, image_size=64)
    scenes = sample_scenes(6, split="validation")
    inside, outside = [], []
    for number, scene in enumerate(scenes):
        cover = torch.from_numpy(np.ascontiguousarray(cover_scene(scene)[list(frames)]))
        assert torch.equal(found[number], holds_contour(cover, tubelet=(2, 8, 8)))
        # The picture changes where they are, and little elsewhere.
        video = dataset[number].video[0].float()
        parts = video.unflatten(3, (8, 8)).unflatten(2, (8, 8)).unflatten(0, (4, 2))
        spread = parts.permute(0, 3, 5, 1, 2, 4, 6).flatten(3).std(dim=3).flatten()
        inside.append(spread[found[number]])
        outside.append(spread[~found[number]])
    assert torch.cat(inside).mean() > 2 * torch.cat(outside).mean()


def test_other_clips_have_no_contours_that_are_known(drawn, tmp_path):
    records = list(load_manifest(drawn.validation))
    settings = {"spacing": DEFAULT_SPACING, **CUT}
    assert corpus_contours(records[3:4], **settings).shape == (1, 256)
    moved = tmp_path / "validation"
    moved.mkdir()
    (moved / "000000.mp4").write_bytes(records[0].path.read_bytes())
    rows = "videoid,path,caption\nx,validation/000000.mp4,a b\n"
    (tmp_path / "validation.csv").write_text(rows)
    (tmp_path / "corpus.json").write_bytes((drawn.root / "corpus.json").read_bytes())
    assert corpus_contours(load_manifest(tmp_path / "validation.csv"), **settings) is None
