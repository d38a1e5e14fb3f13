"""torch's compiler, readied for a machine without a GPU."""

import importlib
import logging

import torch


def ready_compiler() -> None:
    """Import what torch's compiler imports in its midst, without its word that there is no GPU.

    That word comes where a CUDA toolkit is installed; code for a CPU needs none.
    """
    module = "torch.utils.cpp_extension"
    told = logging.getLogger(module)
    level = told.level
    if not torch.cuda.is_available():
        told.setLevel(logging.ERROR)
    try:
        importlib.import_module(module)
    finally:
        told.setLevel(level)
