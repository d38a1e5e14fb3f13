from dataclasses import replace

import pytest
import torch

from export.resized import resized
from simvtp import SimVTP


def test_learned_positions_are_interpolated(exported_model):
    learned = SimVTP.from_config(replace(exported_model.config, video_positions="learned"))
    with torch.no_grad():
        # A ramp over time, rows and columns stays one on a finer grid.
        ramp = torch.stack(torch.meshgrid(*map(torch.arange, (2, 2, 2)), indexing="ij"), dim=-1)
        learned.video_embedding.positions[:, :3] = ramp.reshape(-1, 3).float()
    larger = resized(learned, num_frames=6, image_size=48)
    sides = (torch.linspace(0, 1, size) for size in (3, 3, 3))
    finer = torch.stack(torch.meshgrid(*sides, indexing="ij"), dim=-1).reshape(-1, 3)
    torch.testing.assert_close(larger.video_embedding.positions[:, :3], finer)
    before, after = learned.state_dict(), larger.state_dict()
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert changed == ["video_embedding.positions"]


def test_the_size_that_it_has_is_the_model(exported_model):
    assert resized(exported_model, num_frames=4, image_size=32) is exported_model
    assert resized(exported_model) is exported_model


@pytest.mark.parametrize("sizes", [{"num_frames": 3}, {"image_size": 40}, {"image_size": 0}])
def test_sizes_that_hold_no_whole_tubelets(exported_model, sizes):
    with pytest.raises(ValueError, match=str(*sizes.values())):
        resized(exported_model, **sizes)
