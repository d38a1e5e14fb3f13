"""An exported folder as data: what report.json says of its graphs, checked, without torch."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.runtime.json_fields import FieldError, json_field, json_value, read_json_object
from simvtp.named_files import file_beside

FORMAT = 1
REPORT_NAME = "report.json"
PRECISIONS = ("fp32", "fp16", "bf16", "int8")
# What a folder's graphs are; those of "aoti" are compiled code, and loading one runs it.
KINDS = {"onnx": "ONNX graphs", "aoti": "compiled code (.pt2)"}
# Of the model's config; the report tells the rest too.
_SIZES = (
    *("max_text_length", "vocab_size", "num_frames", "tubelet_frames"),
    *("image_size", "patch_size"),
)
_DTYPES = ("uint8", "int64", "float32")
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of a graph; a dimension is a size, or the name of a symbolic one."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class Range:
    """Sizes that a symbolic dimension may take: smallest, usual (tuned for), largest."""

    smallest: int
    usual: int
    largest: int

    def __post_init__(self) -> None:
        sizes = (self.smallest, self.usual, self.largest)
        if any(isinstance(size, bool) or not isinstance(size, int) for size in sizes):
            raise ValueError(f"a range must be three whole numbers, got {sizes}")
        if not 1 <= self.smallest <= self.usual <= self.largest:
            raise ValueError(
                f"a range must have 1 <= smallest <= usual <= largest, got {sizes}; "
                "give them in rising order"
            )

    def __contains__(self, size: object) -> bool:
        return isinstance(size, int) and self.smallest <= size <= self.largest


@dataclass(frozen=True)
class GraphSpec:
    """One graph of a folder: its files, inputs, outputs and the ranges they may have.

    `sha256` and `bytes` are those of `file` followed by its external data.
    """

    name: str
    file: str
    sha256: str
    bytes: int
    external_data: tuple[str, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    ranges: Mapping[str, Range]


@dataclass(frozen=True)
class ExportedFolder:
    """A folder that `export.onnx` or `export.aoti` wrote; `report` is all of its report.json.

    `opset` is that of ONNX graphs, None of others.
    """

    path: Path
    kind: str
    precision: str
    opset: int | None
    graphs: Mapping[str, GraphSpec]
    model: Mapping[str, Any]
    report: Mapping[str, Any]

    @property
    def max_text_length(self) -> int:
        """Most tokens of a caption, special ones included."""
        return self.model["config"]["max_text_length"]

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return self.model["config"]["vocab_size"]

    @property
    def num_tubelets(self) -> int:
        """Tubelets of a clip."""
        config = self.model["config"]
        side = config["image_size"] // config["patch_size"]
        return config["num_frames"] // config["tubelet_frames"] * side * side

    def graph(self, name: str) -> GraphSpec:
        """The graph called `name`.

        Raises:
            ValueError: it was not exported.
        """
        if name not in self.graphs:
            raise ValueError(
                f"{self.path} holds no graph {name!r}, only {', '.join(self.graphs)}; "
                f"export it with python -m export.{self.kind} --graphs {name} ..."
            )
        return self.graphs[name]

    def file(self, graph: str) -> Path:
        """Path of a graph's file.

        Raises:
            ValueError: the graph was not exported.
        """
        return self.path / self.graph(graph).file


def read_exported_folder(
    path: str | Path, *, kind: str | None = "onnx", check_hashes: bool = False
) -> ExportedFolder:
    """Read and check report.json of an exported folder; no graph is opened.

    Args:
        path: the folder.
        kind: what its graphs must be, "onnx" or "aoti"; None: either, for who reads them only.
        check_hashes: also hash the graphs' files and compare with what the report says.

    Raises:
        ValueError: there is no folder or report, the report is damaged, of another format or
            inconsistent, its graphs are of another kind, a graph's file is missing or empty, or a
            hash differs.
    """
    if not isinstance(path, str | Path):
        raise TypeError(f"an exported folder is opened by its path, got {path!r:.80}")
    folder = Path(path)
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; give one that python -m export.onnx wrote")
    report = read_json_object(folder / REPORT_NAME)
    if report.get("format") != FORMAT:
        raise ValueError(
            f"{folder / REPORT_NAME} has format {report.get('format')!r}, this version reads "
            f"{FORMAT}; export the folder anew"
        )
    try:
        exported = _parse_report(folder, report)
    except FieldError as error:
        raise ValueError(
            f"{folder / REPORT_NAME} is damaged: {error}; export the folder anew"
        ) from error
    if kind not in (None, exported.kind):
        raise ValueError(
            f"{folder} holds {KINDS[exported.kind]}, wanted are {KINDS[kind]}; write them with "
            f"python -m export.{kind}, or take what runs {KINDS[exported.kind]}"
        )
    for graph in exported.graphs.values():
        _check_files(folder, graph, check_hash=check_hashes)
    return exported


def file_sha256(*paths: Path) -> str:
    """SHA-256 of the bytes of files, one after the other, as lower-case hexadecimal digits."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as source:
            while block := source.read(_BLOCK_BYTES):
                digest.update(block)
    return digest.hexdigest()


def check_graph_hash(file: Path, graph: GraphSpec) -> None:
    """Compare a graph's file and external data with the hash in the report.

    Raises:
        ValueError: they differ.
    """
    names = (file.name, *graph.external_data)
    if (found := file_sha256(*(file.parent / name for name in names))) != graph.sha256:
        raise ValueError(
            f"{file.parent}: {' and '.join(names)} have SHA-256 {found[:12]}..., {REPORT_NAME} "
            f"says {graph.sha256[:12]}...: they were changed or damaged; copy them again or export "
            "the folder anew"
        )


def parse_tensors(values: object, *, where: str) -> tuple[TensorSpec, ...]:
    """Tensors as report.json and the engines' sidecar files list them.

    Raises:
        FieldError: a field is missing or of another type.
    """
    return tuple(
        TensorSpec(
            json_field(item, "name", str, where),
            json_field(item, "dtype", str, where),
            tuple(_dimension(size, where) for size in json_field(item, "shape", list, where)),
        )
        for item in json_value(values, list, where)
    )


def _parse_report(folder: Path, report: Mapping[str, Any]) -> ExportedFolder:
    precision = json_field(report, "precision", str, "the report")
    if precision not in PRECISIONS:
        raise FieldError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    graphs = json_field(report, "graphs", dict, "the report")
    if not graphs:
        raise FieldError("it lists no graph")
    model = json_field(report, "model", dict, "the report")
    config = json_field(model, "config", dict, "'model'")
    for name in _SIZES:
        if (size := json_field(config, name, int, "'config'")) < 1:
            raise FieldError(f"{name!r} of 'config' must be at least 1, got {size}")
    # Older reports do not say; there was nothing else.
    kind = json_value(report.get("kind", "onnx"), str, "'kind'")
    if kind not in KINDS:
        raise FieldError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    return ExportedFolder(
        path=folder,
        kind=kind,
        precision=precision,
        opset=json_field(report, "opset", int, "the report") if kind == "onnx" else None,
        graphs={name: _parse_graph(name, values) for name, values in graphs.items()},
        model=model,
        report=report,
    )


def _parse_graph(name: str, values: object) -> GraphSpec:
    where = f"graph {name!r}"
    spec = GraphSpec(
        # Engines and Triton's models are files and folders of this name.
        name=_file_name(name, where),
        file=_file_name(json_field(values, "file", str, where), where),
        sha256=json_field(values, "sha256", str, where),
        bytes=json_field(values, "bytes", int, where),
        external_data=tuple(
            _file_name(json_value(item, str, where), where)
            for item in json_field(values, "external_data", list, where)
        ),
        inputs=parse_tensors(json_field(values, "inputs", list, where), where=f"inputs of {where}"),
        outputs=parse_tensors(
            json_field(values, "outputs", list, where), where=f"outputs of {where}"
        ),
        ranges={
            dimension: _parse_range(sizes, f"range {dimension!r} of {where}")
            for dimension, sizes in json_field(values, "ranges", dict, where).items()
        },
    )
    for tensor in (*spec.inputs, *spec.outputs):
        if tensor.dtype not in _DTYPES:
            raise FieldError(
                f"{tensor.name} of {where} must be one of {', '.join(_DTYPES)}, got "
                f"{tensor.dtype!r}"
            )
    symbolic = {size for tensor in spec.inputs for size in tensor.shape if isinstance(size, str)}
    if missing := sorted({"batch", *symbolic} - set(spec.ranges)):
        raise FieldError(f"{where} declares no range for {', '.join(missing)}")
    return spec


def _parse_range(values: object, where: str) -> Range:
    sizes = json_value(values, list, where)
    if len(sizes) != 3:
        raise FieldError(f"{where} must be [smallest, usual, largest], got {sizes}")
    try:
        return Range(*sizes)
    except ValueError as error:
        raise FieldError(f"{where}: {error}") from error


def _check_files(folder: Path, graph: GraphSpec, *, check_hash: bool) -> None:
    sizes = {}
    for name in (graph.file, *graph.external_data):
        if not file_beside(folder / REPORT_NAME, name).is_file():
            raise ValueError(
                f"{folder / name} of graph {graph.name!r} is missing; export the folder anew"
            )
        sizes[name] = (folder / name).stat().st_size
    if sum(sizes.values()) != graph.bytes:
        raise ValueError(
            f"graph {graph.name!r} in {folder} should have {graph.bytes} bytes in "
            f"{', '.join(sizes)}, it has {sum(sizes.values())}: the copy is truncated or another "
            "export's; copy it again or export the folder anew"
        )
    if check_hash:
        check_graph_hash(folder / graph.file, graph)


def _dimension(size: object, where: str) -> int | str:
    if isinstance(size, bool) or not isinstance(size, int | str):
        raise FieldError(f"{where} must have sizes and names as dimensions, got {size!r}")
    return size


def _file_name(name: str, where: str) -> str:
    # A report may come from a stranger: it must not make anyone read outside its folder.
    if name in ("", "..") or name != Path(name).name or "\\" in name:
        raise FieldError(f"{where} must name a file of this folder, got {name!r}")
    return name
