"""The examples that no server is needed for; test_triton_server.py asks one."""

import subprocess
import sys
from pathlib import Path

import yaml

EXAMPLES = Path(__file__).parents[3] / "examples" / "triton"
CLIENT = EXAMPLES / "client.py"


def test_options_that_would_be_left_aside_are_refused(tmp_path):
    both = ["--text", "a ball", "--video", str(tmp_path / "clip.mp4")]
    for more in (["--among", str(tmp_path)], ["--save", str(tmp_path / "a.npy")]):
        command = [sys.executable, str(CLIENT), *both, *more]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert "--among and --save take an embedding" in done.stderr


def test_the_compose_file_serves_the_repository_that_it_mounts_on_the_loopback_only():
    service = yaml.safe_load((EXAMPLES / "compose.yaml").read_text())["services"]["triton"]
    [volume] = service["volumes"]
    source, place, mode = volume.rsplit(":", 2)
    assert (source, mode) == ("${REPOSITORY:-./models}", "ro")
    assert f"--model-repository={place}" in service["command"]
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    [device] = service["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]
