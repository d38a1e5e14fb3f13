"""A Triton model repository: every model's folder with its config, files and code."""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from export.runtime.captions import load_tokenizer
from export.runtime.engine_file import find_engine_file
from export.runtime.folder import ExportedFolder, GraphSpec, TensorSpec
from export.runtime.json_fields import json_field, read_json_object
from export.triton.config import (
    Config,
    ServingSettings,
    caption_lengths,
    ensemble_config,
    graph_config,
    print_config,
    python_config,
    tensor_numbers,
)
from export.triton.served import require_servable, served_graph
from simvtp.config import FrameSpacing
from simvtp.config.json_file import write_json

# Half precision leaves this much of a norm of 1.
_NORM_TOLERANCE = 1e-2
LISTING = "repository.json"
_TEXT = TensorSpec("TEXT", "string", ("batch", 1))
_VIDEO = TensorSpec("VIDEO", "string", ("batch", 1))
_SIZES = ("num_frames", "image_size")
# What one request may cost: videos beyond are refused, so that no stranger's file holds a server.
_VIDEO_LIMITS = {
    "max_bytes": 64 << 20,
    "max_frames": 1 << 17,
    "max_pixels": 1 << 24,
    "max_decoded": 1 << 32,
    "max_seconds": 10,
}


class Gallery(NamedTuple):
    """Clips to search in: `embeddings` `(clips, width)` float32 of unit norm, and their ids."""

    embeddings: np.ndarray
    ids: tuple[str, ...]


def write_repository(
    exported: ExportedFolder, repository: Path, settings: ServingSettings, gallery: Gallery | None
) -> list[Config]:
    """Write a repository into an empty folder.

    Args:
        exported: what to serve.
        repository: where to.
        settings: how to serve it.
        gallery: clips that `search` finds; without them it only embeds captions.

    Returns:
        The configs of its models.

    Raises:
        ValueError: an engine, the tokenizer or a graph is missing or damaged, the graphs are not
            for this backend or device, or the gallery is of another model.
        OSError: the disk is full or fails.
    """
    require_servable(exported, settings)
    graphs = {
        name: served_graph(exported, graph, settings)
        for name, graph in exported.graphs.items()
        if name != "reconstruct"
    }
    if not graphs:
        raise ValueError(f"{exported.path} holds no graph that is served; export video or text")
    if gallery is not None and "text" not in graphs:
        raise ValueError(
            f"a gallery is searched with captions, and {exported.path} has no graph 'text'; export "
            "it too, or leave the gallery out"
        )
    configs = {
        name: graph_config(graph, settings, vocab_size=exported.vocab_size)
        for name, graph in graphs.items()
    }
    for name, graph in graphs.items():
        folder = _folder(repository, configs[name])
        _copy_graph(exported, graph, folder / "1", settings)
        _write_warm_up(folder, graph)
    if "tokens" in {key for graph in graphs.values() for key in graph.ranges}:
        configs["tokenize"] = _write_tokenize(exported, graphs, repository, settings)
    if any(tensor.name == "frames" for graph in graphs.values() for tensor in graph.inputs):
        configs["preprocess"] = _write_preprocess(exported, graphs, repository)
    if gallery is not None:
        configs["rank"] = _write_rank(configs["text"], gallery, repository, settings)
    for ensemble in _ensembles(configs, _other_names(graphs, settings)):
        configs[ensemble.name] = ensemble
        (_folder(repository, ensemble) / "1").mkdir()
    listing = {"format": 1, "models": sorted(configs), "from": exported.path.resolve().name}
    write_json(repository / LISTING, listing)
    return list(configs.values())


def _folder(repository: Path, config: Config) -> Path:
    folder = repository / config.name
    folder.mkdir()
    (folder / "config.pbtxt").write_text(print_config(config), "utf-8")
    return folder


def _copy_graph(
    exported: ExportedFolder, graph: GraphSpec, version: Path, settings: ServingSettings
) -> None:
    version.mkdir()
    if settings.backend == "tensorrt":
        engine = find_engine_file(exported.path, graph, backend="tensorrt")
        shutil.copyfile(engine.path, version / "model.plan")
        return
    if settings.backend == "pytorch":
        shutil.copyfile(exported.path / graph.file, version / "model.pt2")
        return
    shutil.copyfile(exported.path / graph.file, version / "model.onnx")
    for name in graph.external_data:
        # The graph names this file, wherever it lies itself.
        shutil.copyfile(exported.path / name, version / name)
    if settings.backend == "python":
        _copy_code("runtime/token_checks.py", version / "token_checks.py")
        _copy_code("triton/files/graph.py", version / "model.py")


def _write_warm_up(folder: Path, graph: GraphSpec) -> None:
    if "tokens" in graph.ranges:
        (folder / "warmup").mkdir()
        ones = np.ones(graph.ranges["tokens"].usual, dtype=np.int64)
        (folder / "warmup" / "attention_mask").write_bytes(ones.tobytes())


def _write_tokenize(
    exported: ExportedFolder,
    graphs: dict[str, GraphSpec],
    repository: Path,
    settings: ServingSettings,
) -> Config:
    lengths = caption_lengths(graphs.values(), settings)
    config = python_config(
        "tokenize",
        inputs=[_TEXT],
        outputs=[
            TensorSpec(name, "int64", ("batch", "tokens"))
            for name in ("token_ids", "attention_mask")
        ],
        max_batch=_largest_batch(graphs),
        parameters={
            "max_length": exported.max_text_length,
            "lengths": ",".join(str(length) for length in lengths),
        },
    )
    tokenizer = exported.path / "tokenizer.json"
    load_tokenizer(tokenizer)
    version = _folder(repository, config) / "1"
    version.mkdir()
    shutil.copyfile(tokenizer, version / "tokenizer.json")
    _copy_code("runtime/captions.py", version / "captions.py")
    _copy_code("triton/files/tokenize.py", version / "model.py")
    return config


def _write_preprocess(
    exported: ExportedFolder, graphs: dict[str, GraphSpec], repository: Path
) -> Config:
    file = exported.path / "preprocessor.json"
    values = read_json_object(file)
    cut = {name: json_field(values, name, int, file.name) for name in _SIZES}
    shape = ("batch", cut["num_frames"], 3, cut["image_size"], cut["image_size"])
    config = python_config(
        "preprocess",
        inputs=[_VIDEO],
        outputs=[TensorSpec("frames", "uint8", shape)],
        max_batch=_largest_batch(graphs),
        parameters=cut | _spacing(values, file).named() | _VIDEO_LIMITS,
        instances=2,
    )
    version = _folder(repository, config) / "1"
    version.mkdir()
    _copy_code("runtime/clips.py", version / "clips.py")
    _copy_decoder(version / "simvtp")
    _copy_code("triton/files/preprocess.py", version / "model.py")
    return config


def _spacing(values: Mapping[str, Any], file: Path) -> FrameSpacing:
    try:
        return FrameSpacing.of(values)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def _write_rank(
    text: Config,
    gallery: Gallery,
    repository: Path,
    settings: ServingSettings,
) -> Config:
    width = text.output[0].dims[0]
    if gallery.embeddings.shape[1] != width:
        raise ValueError(
            f"the gallery's embeddings must be {width} wide, as the model's, got "
            f"{gallery.embeddings.shape[1]}; embed it with this model"
        )
    top = min(settings.top, len(gallery.ids))
    config = python_config(
        "rank",
        inputs=[TensorSpec("text_embed", "float32", ("batch", width))],
        outputs=[
            TensorSpec("ids", "string", ("batch", top)),
            TensorSpec("scores", "float32", ("batch", top)),
        ],
        max_batch=text.max_batch_size,
        parameters={"top": top},
    )
    version = _folder(repository, config) / "1"
    version.mkdir()
    np.save(version / "gallery.npy", gallery.embeddings)
    (version / "gallery.json").write_text(json.dumps(gallery.ids), "utf-8")
    _copy_code("triton/files/rank.py", version / "model.py")
    return config


def _other_names(
    graphs: Mapping[str, GraphSpec], settings: ServingSettings
) -> dict[str, dict[str, str]]:
    """Names of tensors that the graphs' models call otherwise, by model and what they call them."""
    if settings.backend != "pytorch":
        return {}
    return {
        name: {number: tensor for tensor, number in tensor_numbers(graph).items()}
        for name, graph in graphs.items()
    }


def _ensembles(configs: dict[str, Any], names: Mapping[str, Mapping[str, str]]) -> Iterator[Config]:
    if "text" in configs:
        steps = [configs["tokenize"], configs["text"]]
        returned = ["text_embed"]
        if "rank" in configs:
            steps.append(configs["rank"])
            returned += ["ids", "scores"]
        yield ensemble_config("search", steps, returned=returned, names=names)
    if "video" in configs:
        steps = [configs["preprocess"], configs["video"]]
        yield ensemble_config("embed_video", steps, returned=["video_embed"], names=names)
    if "match" in configs:
        steps = [configs["preprocess"], configs["tokenize"], configs["match"]]
        yield ensemble_config("match_video", steps, returned=["match_probability"], names=names)


def _largest_batch(graphs: dict[str, GraphSpec]) -> int:
    return max(graph.ranges["batch"].largest for graph in graphs.values())


def _copy_code(name: str, target: Path) -> None:
    with as_file(files("export").joinpath(*Path(name).parts)) as source:
        shutil.copyfile(source, target)


def _copy_decoder(target: Path) -> None:
    """The part of simvtp that reads videos; the server has no other."""
    with as_file(files("simvtp")) as source:
        code = shutil.ignore_patterns("__pycache__")
        shutil.copytree(source / "decoding", target / "decoding", ignore=code)
        shutil.copyfile(source / "__init__.py", target / "__init__.py")


def read_gallery(file: Path) -> Gallery:
    """Clips of a file that `python -m simvtp.pipelines.embed` wrote; of several, the first view.

    Raises:
        ValueError: it is no such file, holds no clip, or holds something else than embeddings.
    """
    # Needed for galleries only.
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(file, columns=["video_id", "view", "video_embed"])
    except (pa.ArrowException, OSError, KeyError) as error:
        raise ValueError(
            f"{file} is no file of features ({error}); write one with "
            "python -m simvtp.pipelines.embed"
        ) from error
    for name in table.column_names:
        if missing := table[name].null_count:
            raise ValueError(
                f"{file} must have a {name} in every row, got {missing} null of {table.num_rows}; "
                "leave these rows out"
            )
    rows: Sequence[bool] = [view == 0 for view in table["view"].to_pylist()]
    table = table.filter(pa.array(rows))
    if not table.num_rows:
        raise ValueError(f"{file} holds no clip")
    rows_of_numbers = table["video_embed"].to_numpy(zero_copy_only=False)
    try:
        embeddings = np.stack(rows_of_numbers).astype(np.float32)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{file} has clips whose embeddings are not alike: {error}") from error
    if embeddings.ndim != 2 or not np.isfinite(embeddings).all():
        raise ValueError(f"{file} must hold an embedding of finite numbers for every clip")
    norms = np.linalg.norm(embeddings, axis=1)
    if np.abs(norms - 1).max() > _NORM_TOLERANCE:
        raise ValueError(
            f"{file} must hold embeddings of unit norm, got norms {norms.min():.4g} to "
            f"{norms.max():.4g}; divide each by its norm, as simvtp.pipelines.embed does"
        )
    return Gallery(embeddings, tuple(str(name) for name in table["video_id"].to_pylist()))
