"""Manifests, video decoding, crops, tokenizers, datasets and loaders."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from simvtp.data.clips import ClipInfo, frame_indices, probe, read_clip
    from simvtp.data.dataset import (
        ClipDataset,
        ClipTransform,
        EvaluationClip,
        EvaluationDataset,
        Quarantine,
        Sample,
        TooManyBadClips,
    )
    from simvtp.data.loader import EpochSampler, build_loader
    from simvtp.data.manifest import ClipRecord, Manifest, ManifestError, load_manifest
    from simvtp.data.tokenizer import (
        EncodedCaption,
        SpecialTokens,
        encode_caption,
        load_tokenizer,
        special_token_ids,
        train_tokenizer,
    )
    from simvtp.data.transforms import CentreCrop, CropBox, MultiScaleCrop
    from simvtp.data.video_file import ClipError

__all__ = [
    "CentreCrop",
    "ClipDataset",
    "ClipError",
    "ClipInfo",
    "ClipRecord",
    "ClipTransform",
    "CropBox",
    "EncodedCaption",
    "EpochSampler",
    "EvaluationClip",
    "EvaluationDataset",
    "Manifest",
    "ManifestError",
    "MultiScaleCrop",
    "Quarantine",
    "Sample",
    "SpecialTokens",
    "TooManyBadClips",
    "build_loader",
    "encode_caption",
    "frame_indices",
    "load_manifest",
    "load_tokenizer",
    "probe",
    "read_clip",
    "special_token_ids",
    "train_tokenizer",
]

_NAMES = {
    "clips": ("ClipInfo", "frame_indices", "probe", "read_clip"),
    "dataset": (
        *("ClipDataset", "ClipTransform", "EvaluationClip", "EvaluationDataset"),
        *("Quarantine", "Sample", "TooManyBadClips"),
    ),
    "loader": ("EpochSampler", "build_loader"),
    "manifest": ("ClipRecord", "Manifest", "ManifestError", "load_manifest"),
    "tokenizer": (
        *("EncodedCaption", "SpecialTokens", "encode_caption", "load_tokenizer"),
        *("special_token_ids", "train_tokenizer"),
    ),
    "transforms": ("CentreCrop", "CropBox", "MultiScaleCrop"),
    "video_file": ("ClipError",),
}
_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names}


def __getattr__(name: str) -> object:
    # On first use: a model that only tokenizes should not wait for PyAV and torchvision.
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
