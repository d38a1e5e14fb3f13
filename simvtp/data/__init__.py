"""Manifests, video decoding, crops, tokenizers, datasets and loaders."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from simvtp.data.annotations import (
        MissingVideosWarning,
        load_labelled,
        load_questions,
        load_retrieval,
        with_known_answers,
    )
    from simvtp.data.clip_table import ByteSpan, ClipRecord, ClipTable, write_clip_table
    from simvtp.data.datasets.clips import (
        ClipDataset,
        ClipTransform,
        RandomClips,
        Sample,
    )
    from simvtp.data.datasets.quarantine import Quarantine, TooManyBadClips
    from simvtp.data.datasets.tasks import (
        LabelledClips,
        LabelledDataset,
        LabelledSample,
        Question,
        QuestionDataset,
        QuestionSample,
        QuestionSet,
        encode_question,
    )
    from simvtp.data.datasets.views import ViewDataset, ViewedClip
    from simvtp.data.loader import EpochSampler, build_loader
    from simvtp.data.manifests.loading import load_manifest
    from simvtp.data.manifests.problems import ManifestError
    from simvtp.data.mixtures.clips import ClipMixture
    from simvtp.data.mixtures.order import MixtureOrder
    from simvtp.data.places import Command, Url, named_place
    from simvtp.data.shards.fetch import FetchError, ShardCache
    from simvtp.data.shards.index import ShardError
    from simvtp.data.shards.listing import ShardWarning, load_shards
    from simvtp.data.shards.order import ShardOrder
    from simvtp.data.sources import load_clips
    from simvtp.data.streaming.clips import ClipStream
    from simvtp.data.tokenizer import (
        EncodedCaption,
        SpecialTokens,
        encode_caption,
        load_tokenizer,
        special_token_ids,
        train_tokenizer,
        vocabulary_size,
    )
    from simvtp.data.video.clips import (
        ClipError,
        ClipInfo,
        frame_indices,
        probe,
        read_clip,
        read_clips,
    )
    from simvtp.data.video.transforms import CentreCrop, CropBox, MultiScaleCrop

__all__ = [
    "ByteSpan",
    "CentreCrop",
    "ClipDataset",
    "ClipError",
    "ClipInfo",
    "ClipMixture",
    "ClipRecord",
    "ClipStream",
    "ClipTable",
    "ClipTransform",
    "Command",
    "CropBox",
    "EncodedCaption",
    "EpochSampler",
    "FetchError",
    "LabelledClips",
    "LabelledDataset",
    "LabelledSample",
    "ManifestError",
    "MissingVideosWarning",
    "MixtureOrder",
    "MultiScaleCrop",
    "Quarantine",
    "Question",
    "QuestionDataset",
    "QuestionSample",
    "QuestionSet",
    "RandomClips",
    "Sample",
    "ShardCache",
    "ShardError",
    "ShardOrder",
    "ShardWarning",
    "SpecialTokens",
    "TooManyBadClips",
    "Url",
    "ViewDataset",
    "ViewedClip",
    "build_loader",
    "encode_caption",
    "encode_question",
    "frame_indices",
    "load_clips",
    "load_labelled",
    "load_manifest",
    "load_questions",
    "load_retrieval",
    "load_shards",
    "load_tokenizer",
    "named_place",
    "probe",
    "read_clip",
    "read_clips",
    "special_token_ids",
    "train_tokenizer",
    "vocabulary_size",
    "with_known_answers",
    "write_clip_table",
]

_NAMES = {
    "annotations": (
        *("MissingVideosWarning", "load_labelled", "load_questions", "load_retrieval"),
        *("with_known_answers",),
    ),
    "clip_table": ("ByteSpan", "ClipRecord", "ClipTable", "write_clip_table"),
    "shards.fetch": ("FetchError", "ShardCache"),
    "video.clips": ("ClipError", "ClipInfo", "frame_indices", "probe", "read_clip", "read_clips"),
    "datasets.clips": (
        *("ClipDataset", "ClipTransform"),
        *("RandomClips", "Sample"),
    ),
    "loader": ("EpochSampler", "build_loader"),
    "manifests.loading": ("load_manifest",),
    "manifests.problems": ("ManifestError",),
    "mixtures.clips": ("ClipMixture",),
    "mixtures.order": ("MixtureOrder",),
    "places": ("Command", "Url", "named_place"),
    "datasets.quarantine": ("Quarantine", "TooManyBadClips"),
    "shards.order": ("ShardOrder",),
    "shards.index": ("ShardError",),
    "shards.listing": ("ShardWarning", "load_shards"),
    "sources": ("load_clips",),
    "streaming.clips": ("ClipStream",),
    "datasets.tasks": (
        *("LabelledClips", "LabelledDataset", "LabelledSample", "encode_question"),
        *("Question", "QuestionDataset", "QuestionSample", "QuestionSet"),
    ),
    "tokenizer": (
        *("EncodedCaption", "SpecialTokens", "encode_caption", "load_tokenizer"),
        *("special_token_ids", "train_tokenizer", "vocabulary_size"),
    ),
    "video.transforms": ("CentreCrop", "CropBox", "MultiScaleCrop"),
    "datasets.views": ("ViewDataset", "ViewedClip"),
}
_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names}


def __getattr__(name: str) -> object:
    # On first use: a model that only tokenizes should not wait for PyAV and torchvision.
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
