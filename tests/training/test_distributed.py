import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from simvtp.layers import mean_over_ranks
from simvtp.training.distributed import (
    all_true,
    is_main,
    process_group,
    rank,
    world_size,
)

ROOT = Path(__file__).parents[2]

TWO_RANKS = """
import json, sys
from pathlib import Path
import torch
from simvtp.layers import mean_over_ranks
from simvtp.training.distributed import *
from simvtp.training.distributed import distributed

with process_group("cpu") as info:
    flags = torch.tensor([True, info.rank == 0, info.rank == 1, False])
    values = torch.tensor([1.0, 10.0 * info.rank], requires_grad=True)
    result = {
        "info": [info.rank, info.world_size, str(info.device)],
        "here": [rank(), world_size(), is_main()],
        "backend": distributed.get_backend(),
        "flags": all_true(flags).tolist(),
        "flags_untouched": flags.tolist() == [True, info.rank == 0, info.rank == 1, False],
        "scalar": all_true(torch.tensor(info.rank == 0)).item(),
        "mean": mean_over_ranks(values).tolist(),
        "values_untouched": values.tolist() == [1.0, 10.0 * info.rank],
    }
result["left"] = [rank(), world_size(), distributed.is_initialized()]
Path(sys.argv[1], f"{info.rank}.json").write_text(json.dumps(result))
"""


@pytest.fixture
def alone(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("alone")
def test_single_process_joins_nothing():
    with process_group("cpu") as info:
        assert info == (0, 1, torch.device("cpu"))
        assert (rank(), world_size(), is_main()) == (0, 1, True)
        flags = torch.tensor([True, False])
        assert all_true(flags) is flags
        mean = mean_over_ranks(torch.tensor([1.0, 2.0], requires_grad=True))
    assert mean.tolist() == [1.0, 2.0]
    assert not mean.requires_grad


def test_more_processes_than_devices_is_explained(monkeypatch):
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with (
        pytest.raises(ValueError, match=r"LOCAL_RANK 3 and 2 device.*--nproc-per-node"),
        process_group("cuda"),
    ):
        pass


@pytest.mark.slow
def test_two_ranks_under_torchrun(tmp_path):
    script = tmp_path / "two_ranks.py"
    script.write_text(TWO_RANKS)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    result = subprocess.run(
        [*command, "--nproc-per-node=2", str(script), str(tmp_path)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    for number in range(2):
        assert json.loads((tmp_path / f"{number}.json").read_text()) == {
            "info": [number, 2, "cpu"],
            "here": [number, 2, number == 0],
            "backend": "gloo",
            "flags": [True, False, False, False],
            "flags_untouched": True,
            "scalar": False,
            "mean": [1.0, 5.0],
            "values_untouched": True,
            "left": [0, 1, False],
        }
