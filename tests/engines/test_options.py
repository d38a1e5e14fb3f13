"""What a command's work runs on, as it was typed."""

import socket
from argparse import ArgumentParser, Namespace

import pytest

from simvtp.engines import LocalEngine
from simvtp.engines.options import _num_gpus, add_engine, chosen_engine
from simvtp.printing import Console


def typed(*words: str, computes: bool = True, device: str = "auto", workers: int = 1) -> Namespace:
    parser = ArgumentParser()
    add_engine(parser, computes=computes)
    return parser.parse_args(words, Namespace(device=device, workers=workers))


def test_this_machine_is_the_default():
    with chosen_engine(typed(), Console()) as engine:
        assert isinstance(engine, LocalEngine)
        assert engine.device is None


@pytest.mark.parametrize(
    "words",
    [("--actors=2",), ("--ray-address=head:1",), ("--part-size=3",), ("--gpus-per-actor=0.5",)],
)
def test_what_is_of_a_cluster_needs_one(words):
    name = words[0].partition("=")[0]
    with (
        pytest.raises(ValueError, match=f"{name} goes with --engine ray"),
        chosen_engine(typed(*words), Console()),
    ):
        pass


@pytest.mark.parametrize("share", ["0", "1.5", "-1", "nan"])
def test_a_share_of_a_gpu_is_one(share, capsys):
    with pytest.raises(SystemExit):
        typed(f"--gpus-per-actor={share}")
    assert "must lie in (0, 1]" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "device", "there", "expected"),
    [
        ((), "auto", 0, 0),
        ((), "auto", 4, 1),
        ((), "cpu", 4, 0),
        ((), "cuda", 0, 1),
        (("--gpus-per-actor=0.5",), "auto", 0, 0.5),
        (("--gpus-per-actor=0.25",), "cuda", 4, 0.25),
    ],
)
def test_gpus_of_an_actor(words, device, there, expected):
    assert _num_gpus(typed(*words, device=device), there=there) == expected


def test_no_gpu_and_a_share_of_one_exclude_each_other():
    with pytest.raises(ValueError, match="leave one out"):
        _num_gpus(typed("--gpus-per-actor=0.5", device="cpu"), there=1)


def test_decoding_alone_takes_no_gpu():
    assert _num_gpus(typed(computes=False), there=4) == 0


def test_a_cluster_that_is_not_there_is_told_at_once():
    ray_cluster = pytest.importorskip("simvtp.engines.ray_cluster")
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        words = ("--engine=ray", f"--ray-address=127.0.0.1:{port}")
        with (
            pytest.raises(ray_cluster.ClusterError, match=f"127.0.0.1:{port}: cannot be reached"),
            chosen_engine(typed(*words), Console()),
        ):
            pass


@pytest.mark.parametrize(
    ("cpus", "gpus", "shape", "expected"),
    [
        ((0, 8, 8), (0, 0, 0), (3, 0), 4),
        ((0, 8, 8), (0, 1, 4), (2, 0.5), 6),
        ((64,), (1,), (1, 0.3), 3),
        ((4,), (0,), (1, 1), 0),
    ],
)
def test_room_of_a_cluster(cpus, gpus, shape, expected):
    ray_cluster = pytest.importorskip("simvtp.engines.ray_cluster")
    cluster = ray_cluster.Cluster(cpus, gpus)
    assert cluster.room(ray_cluster.ActorShape(*shape)) == expected
