"""torch's compiler says nothing of GPUs where there is none to be had."""

import importlib
import logging
import sys

import torch

from export.compiler import ready_compiler

MODULE = "torch.utils.cpp_extension"


def test_a_toolkit_without_a_gpu_is_no_news(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    told, logger = [], logging.getLogger(MODULE)
    handler = logging.Handler()
    handler.emit = lambda record: told.append(record.getMessage())
    logger.addHandler(handler)
    level = logger.level
    try:
        monkeypatch.delitem(sys.modules, MODULE, raising=False)
        ready_compiler()
        assert told == []
        assert logger.level == level
        # What would be told without it.
        monkeypatch.delitem(sys.modules, MODULE)
        importlib.import_module(MODULE)
        assert "No CUDA runtime is found" in told[0]
    finally:
        logger.removeHandler(handler)
