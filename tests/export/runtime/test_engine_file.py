"""Engines as files: what is read of them, and what is refused before a GPU is asked."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from export.runtime.engine import Engine
from export.runtime.engine_file import (
    ShapeRange,
    check_engine_device,
    check_engine_version,
    find_engine_file,
    pick_profile,
    read_engine_file,
)
from testing.export.host_tensorrt import PROFILES, write_engine


def test_truncated(exported_copy):
    path = write_engine(exported_copy, "video", PROFILES)
    file = exported_copy / "video.plan"
    file.write_bytes(file.read_bytes()[:-7])
    with pytest.raises(ValueError, match=r"should have .* bytes, it has .* truncated"):
        Engine(read_engine_file(path))
    file.unlink()
    with pytest.raises(ValueError, match="is missing beside its sidecar"):
        Engine(read_engine_file(path))


def test_changed(exported_copy):
    path = write_engine(exported_copy, "video", PROFILES)
    content = bytearray((exported_copy / "video.plan").read_bytes())
    content[7] ^= 1
    (exported_copy / "video.plan").write_bytes(content)
    with pytest.raises(ValueError, match="does not have the SHA-256"):
        Engine(read_engine_file(path))


@pytest.mark.parametrize(
    ("built", "here", "fits"),
    [
        ("10.9.0.34", "10.9.0.34", True),
        ("10.9.0.34", "10.13.3.9", True),
        ("10.13.0.1", "10.9.0.34", False),
        ("10.9.0.34", "11.0.0.1", False),
    ],
)
def test_version_compatible_engines(exported_copy, built, here, fits):
    given_ = {"tensorrt_version": built, "version_compatible": True}
    engine = read_engine_file(write_engine(exported_copy, "video", PROFILES, **given_))
    if fits:
        check_engine_version(engine, found=here)
    else:
        with pytest.raises(ValueError, match=f"this is {here}"):
            check_engine_version(engine, found=here)


def test_engines_for_any_gpu(exported_copy):
    path = write_engine(exported_copy, "video", PROFILES, compute_capability=None, gpu=None)
    check_engine_device(read_engine_file(path), name="any", compute_capability="12.0")


def test_stale(exported_copy, exported):
    write_engine(exported_copy, "video", PROFILES, onnx_sha256="0" * 64)
    with pytest.raises(ValueError, match=r"built from an ONNX file .*; build the engine anew"):
        find_engine_file(exported_copy, exported.graph("video"), backend="tensorrt")


@pytest.mark.parametrize(
    ("replaced", "reason"),
    [
        ({"format": 3}, "format 3, this version reads 1"),
        ({"backend": "cuda"}, "one of tensorrt, rtx, got 'cuda'"),
        ({"file": "../video.plan"}, "must lie beside its engine"),
        ({"sha256": ...}, "no 'sha256'"),
        ({"profiles": []}, "lists no profile"),
        ({"profiles": [{"frames": {"min": [1], "opt": [1]}}]}, "no 'max'"),
        ({"profiles": [{}]}, "profile 0 must hold 'frames' in 5 dimensions"),
        ({"profiles": [{"frames": {"min": [1], "opt": [1], "max": [1]}}]}, "in 5 dimensions"),
        (
            {"profiles": [{"frames": {"min": [1], "opt": [1], "max": ["2"]}}]},
            "'max' of 'frames' of profile 0",
        ),
        ({"profiles": [{"frames": {"min": [1], "opt": [1], "max": [1, 2]}}]}, "same length"),
        ({"profiles": [{"frames": {"min": [3], "opt": [2], "max": [4]}}]}, "min <= opt <= max"),
        ({"compute_capability": 8.9}, "must be of type str, got float"),
    ],
)
def test_damaged_sidecars(exported_copy, replaced, reason):
    path = write_engine(exported_copy, "video", PROFILES, **replaced)
    with pytest.raises(ValueError, match=reason):
        read_engine_file(path)


SHAPES = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=3, max_size=3)


@given(profiles=st.lists(SHAPES, min_size=1, max_size=4), shape=st.tuples(*[st.integers(1, 6)] * 2))
def test_the_profile_picked_holds_the_shape_most_tightly(profiles, shape):
    ranges = [
        {
            "x": ShapeRange(
                *(
                    tuple(sorted(side)[place] for side in zip(*sizes, strict=True))
                    for place in range(3)
                )
            )
        }
        for sizes in profiles
    ]

    def held(profile):
        sides = range(profile["x"].smallest[0], profile["x"].largest[0] + 1)
        others = range(profile["x"].smallest[1], profile["x"].largest[1] + 1)
        return shape in set(itertools.product(sides, others))

    if not any(map(held, ranges)):
        with pytest.raises(ValueError, match="no profile of the engine holds x"):
            pick_profile(ranges, {"x": shape})
        return
    number = pick_profile(ranges, {"x": shape})
    assert held(ranges[number])
    sizes = [
        profile["x"].largest[0] * profile["x"].largest[1] for profile in ranges if held(profile)
    ]
    assert ranges[number]["x"].largest[0] * ranges[number]["x"].largest[1] == min(sizes)
