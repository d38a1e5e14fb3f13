"""The example client's command line; test_triton_server.py asks a server."""

import subprocess
import sys
from pathlib import Path

CLIENT = Path(__file__).parents[2] / "examples" / "triton" / "client.py"


def test_options_that_would_be_left_aside_are_refused(tmp_path):
    both = ["--text", "a ball", "--video", str(tmp_path / "clip.mp4")]
    for more in (["--among", str(tmp_path)], ["--save", str(tmp_path / "a.npy")]):
        command = [sys.executable, str(CLIENT), *both, *more]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert "--among and --save take an embedding" in done.stderr
