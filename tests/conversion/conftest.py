import pytest
import torch

from simvtp.conversion import map_weights, read_weights
from simvtp.pipelines.convert import convert
from testing.conversion import paper


@pytest.fixture(scope="session")
def clips():
    generator = torch.Generator().manual_seed(1)
    shape = (2, paper.FRAMES, 3, paper.SIZE, paper.SIZE)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


@pytest.fixture(scope="session")
def captions():
    """Ids of two captions, one word of each hidden behind the [MASK] of this vocabulary."""
    return torch.tensor([[2, 7, 4, 11, 3], [2, 4, 30, 49, 3]])


@pytest.fixture(scope="session")
def masks():
    """Kept and dropped tubelets of two clips of 2 x 2 x 2."""
    return torch.tensor([[0, 3, 5], [1, 2, 7]]), torch.tensor([[1, 2, 4, 6, 7], [0, 3, 4, 5, 6]])


@pytest.fixture
def converted(tmp_path):
    """Convert what a file or folder holds, at the size of the small clips."""

    def run(source, *, towers="both", **overrides):
        if isinstance(source, dict):
            torch.save(source, tmp_path / "weights.pth")
            source = tmp_path / "weights.pth"
        sizes = {
            **{"num_frames": paper.FRAMES, "image_size": paper.SIZE, "depth": paper.DEPTH},
            **{"decoder_depth": paper.DECODER_DEPTH, **overrides},
        }
        return convert([map_weights(read_weights(source), towers=towers)], overrides=sizes)

    return run
