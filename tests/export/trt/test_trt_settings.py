import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from export.runtime.folder import GraphSpec, Range, TensorSpec
from export.trt.library import Cuda, Library
from export.trt.settings import BuildSettings, check_options, graph_profile

GRAPH = GraphSpec(
    name="text",
    file="text.onnx",
    sha256="0",
    bytes=1,
    external_data=(),
    inputs=(TensorSpec("token_ids", "int64", ("batch", "tokens")),),
    outputs=(TensorSpec("text_embed", "float32", ("batch", 8)),),
    ranges={"batch": Range(2, 4, 16), "tokens": Range(3, 8, 64)},
)
sizes = st.integers(1, 80)


@given(st.tuples(sizes, sizes, sizes), st.tuples(sizes, sizes, sizes))
def test_a_profile_lies_within_what_was_exported(batch, tokens):
    ranges = {"batch": Range(*sorted(batch)), "tokens": Range(*sorted(tokens))}
    outside = [
        name
        for name, asked in ranges.items()
        if asked.smallest < GRAPH.ranges[name].smallest
        or asked.largest > GRAPH.ranges[name].largest
    ]
    if outside:
        with pytest.raises(ValueError, match=f"{outside[0]} of a profile must lie in"):
            graph_profile(GRAPH, ranges)
        return
    shapes = graph_profile(GRAPH, ranges)["token_ids"]
    found = (shapes.smallest, shapes.usual, shapes.largest)
    assert found == tuple(zip(sorted(batch), sorted(tokens), strict=True))


def test_a_profile_without_ranges_is_as_exported():
    shapes = graph_profile(GRAPH, {"batch": Range(2, 2, 3)})["token_ids"]
    assert (shapes.smallest, shapes.usual, shapes.largest) == ((2, 3), (2, 8), (3, 64))
    with pytest.raises(ValueError, match="no dimension 'kept', only batch, tokens"):
        graph_profile(GRAPH, {"kept": Range(1, 1, 1)})


@pytest.mark.parametrize("workspace", [0.0, -1.0, math.nan, math.inf, 1e30])
def test_a_workspace_must_be_above_zero_and_finite(workspace):
    with pytest.raises(ValueError, match="workspace must be above 0 GiB"):
        BuildSettings(workspace=workspace)


@pytest.mark.parametrize("place", ["", "missing/kernels.cache", "video.onnx", "folder.cache"])
def test_a_timing_cache_that_could_not_be_written(tmp_path, place):
    (tmp_path / "folder.cache").mkdir()
    library = Library("tensorrt", "10.13.0.35", (), Cuda(None, None, "none is here"))
    check_options(library, BuildSettings(timing_cache=tmp_path / "kernels.cache"))
    with pytest.raises(ValueError, match=r"must be a file NAME\.cache in a folder"):
        check_options(library, BuildSettings(timing_cache=tmp_path / place))
