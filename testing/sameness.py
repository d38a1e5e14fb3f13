"""Equality of what is nested."""

import torch


def assert_same(first, second):
    """Equal to the last bit, whatever is nested."""
    assert type(first) is type(second)
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second)
    elif isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_same(first[key], second[key])
    elif isinstance(first, list | tuple):
        for mine, theirs in zip(first, second, strict=True):
            assert_same(mine, theirs)
    else:
        assert first == second
