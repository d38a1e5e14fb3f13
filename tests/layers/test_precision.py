from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from simvtp.layers.precision import products_in

CPU = torch.device("cpu")


class Casts(TorchDispatchMode):
    """Counts how often some tensor is copied to another number format."""

    def __init__(self, tensor):
        super().__init__()
        self.storage, self.count = tensor.untyped_storage().data_ptr(), 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        if function is torch.ops.aten._to_copy.default:
            self.count += arguments[0].untyped_storage().data_ptr() == self.storage
        return function(*arguments, **(keywords or {}))


@pytest.mark.parametrize("around_all", [True, False])
def test_a_weight_is_cast_once_within_the_outermost_context(around_all):
    layer, batch = nn.Linear(8, 8), torch.randn(4, 8)
    around = products_in("bf16", CPU) if around_all else nullcontext()
    with torch.no_grad(), around:
        with Casts(layer.weight) as casts:
            for _ in range(3):
                with products_in("bf16", CPU):
                    assert layer(batch).dtype == torch.bfloat16
        assert casts.count == (1 if around_all else 3)


def test_fp32_within_bf16_is_fp32():
    layer, batch = nn.Linear(8, 8), torch.randn(4, 8)
    with products_in("bf16", CPU), products_in("fp32", CPU):
        assert layer(batch).dtype == torch.float32
