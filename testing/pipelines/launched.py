"""Jobs under torchrun."""

import os
import subprocess
import sys
from pathlib import Path

# Nothing is drawn by rank: no dropout, and no negatives.
SAME = {"objective__vtm_weight": 0, "model__text_dropout": 0.0}


def torchrun(command, *, processes=2, module="simvtp.pipelines.pretrain"):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    launcher += ["--nproc-per-node", str(processes), "-m", module]
    return subprocess.Popen(
        [*launcher, *command], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def finish(process):
    printed = process.communicate(timeout=240)[0].decode()
    assert process.returncode == 0, printed[-3000:]
    return printed


def workers_of(process):
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(child) for child in children]
