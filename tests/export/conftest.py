"""A small random model, and the folder exported from it."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from export.onnx import main
from export.onnx.folder import export_folder
from export.runtime import Runtime
from export.runtime.folder import ExportedFolder, Range, read_exported_folder
from simvtp import SimVTP
from simvtp.config import ModelConfig
from simvtp.data import train_tokenizer
from testing.export.small_export import CAPTIONS, QUICK


@pytest.fixture(scope="session")
def exported_model() -> SimVTP:
    """A model with weights far from their start, so that embeddings of clips differ."""
    tokenizer = train_tokenizer(CAPTIONS, vocab_size=200)
    config = ModelConfig(
        num_frames=4,
        image_size=32,
        patch_size=16,
        vocab_size=tokenizer.get_vocab_size(),
        max_text_length=16,
        width=32,
        depth=2,
        num_heads=2,
        decoder_width=16,
        decoder_depth=1,
        decoder_heads=2,
    )
    torch.manual_seed(3)
    model = SimVTP.from_config(config, tokenizer=tokenizer)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


@pytest.fixture(scope="session")
def exported_model_folder(exported_model: SimVTP, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model's folder, as a pre-training run leaves it."""
    folder = tmp_path_factory.mktemp("model") / "model"
    exported_model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def exported(
    exported_model_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> ExportedFolder:
    """The exported folder, which tests must not change: see `exported_copy`."""
    return export_folder(
        exported_model_folder,
        tmp_path_factory.mktemp("exported") / "exported",
        batch=Range(1, 2, 4),
        tokens=Range(3, 8, 16),
        repeats=0,
    )


@pytest.fixture
def exported_copy(exported: ExportedFolder, tmp_path: Path) -> Path:
    """A copy of the exported folder that a test may damage."""
    return Path(shutil.copytree(exported.path, tmp_path / "copy"))


@pytest.fixture(scope="session")
def runtime(exported: ExportedFolder) -> Iterator[Runtime]:
    """The exported folder on ONNX Runtime."""
    with Runtime(exported.path, threads=1) as opened:
        yield opened


@pytest.fixture(scope="session")
def reconstructing(
    exported_model_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> ExportedFolder:
    """The graph that is exported on request, by the command."""
    out = tmp_path_factory.mktemp("request") / "deep" / "exported"
    command = ("--model", exported_model_folder, "--out", out, "--graphs", "reconstruct", *QUICK)
    assert main([str(argument) for argument in command]) == 0
    return read_exported_folder(out, check_hashes=True)
