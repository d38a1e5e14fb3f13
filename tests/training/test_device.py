import pytest
import torch

from simvtp.config import RunConfig
from simvtp.training import choose_precision

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("capabilities", "precision"),
    [
        ({"avx512_f": True, "amx_bf16": False, "avx512_bf16": False}, "fp32"),
        ({"avx512_bf16": True}, "bf16"),
        ({"amx_bf16": True}, "bf16"),
        ({}, "fp32"),
    ],
)
def test_cpus_that_multiply_bf16_train_in_it(monkeypatch, capabilities, precision):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert choose_precision(RunConfig(), device=CPU) == precision
    assert choose_precision(RunConfig(precision="fp32"), device=CPU) == "fp32"
    assert choose_precision(RunConfig(precision="bf16"), device=CPU) == "bf16"


def test_a_torch_that_cannot_tell_trains_in_fp32(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert choose_precision(RunConfig(), device=CPU) == "fp32"


def test_cuda_trains_in_bf16():
    assert choose_precision(RunConfig(), device=torch.device("cuda")) == "bf16"
