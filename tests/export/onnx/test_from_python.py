"""A model in memory exported in one line."""

import copy

import numpy as np
import pytest
import torch

from export.onnx import ExportSettings, Range
from export.runtime import Runtime
from testing.export.small_export import CAPTIONS

SETTINGS = ExportSettings(graphs=("text",), batch=Range(1, 2, 4), tokens=Range(3, 8, 16))


def test_a_model_is_exported_and_left_as_it_is(exported_model, tmp_path):
    model = copy.deepcopy(exported_model).train()
    before = copy.deepcopy(model.state_dict())
    folder = model.export_onnx(tmp_path / "out", SETTINGS)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with torch.inference_mode():
        expected = exported_model.encode_text(list(CAPTIONS)).numpy()
    with Runtime(folder, threads=1) as runtime:
        np.testing.assert_allclose(runtime.encode_text(list(CAPTIONS)), expected, atol=1e-5)


def test_a_folder_of_somebody_else_is_refused(exported_model, tmp_path):
    (tmp_path / "letter.txt").write_text("dear reader")
    with pytest.raises(ValueError, match=r"holds letter\.txt, which is no part of an export"):
        exported_model.export_onnx(tmp_path, SETTINGS)
