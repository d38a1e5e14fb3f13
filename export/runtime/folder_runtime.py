"""Run an exported folder without the model: ONNX Runtime, OpenVINO, TensorRT, AOTInductor."""

import threading
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np

from export.runtime.folder import GraphSpec, read_exported_folder
from export.runtime.input_checks import check_batch, check_inputs
from export.runtime.token_checks import check_attention_mask, check_indices

BACKENDS = ("onnxruntime", "openvino", "tensorrt", "rtx", "aoti")
TokenArrays = tuple[np.ndarray, np.ndarray]
Text = str | Sequence[str] | TokenArrays


class Runtime:
    """Clip and caption embeddings, and matching probabilities, from an exported folder.

    A graph is opened at its first use, so that a server of captions holds no more than the text
    graph. Batches larger than the declared range are refused, not split: with int8 activations a
    clip's embedding depends a little on its batch, and how long a call may take is for the caller
    to say. It may be called from several threads.

    Args:
        folder: written by `python -m export.onnx`, or for "aoti" by `python -m export.aoti`.
        backend: "onnxruntime"; "openvino" for CPUs; engines that `python -m export.trt` put into
            the folder: "tensorrt" (.plan) or "rtx" (.engine); or "aoti", compiled code that torch
            loads. Code of a folder is run when its backend is named here, and never because it
            lies there: name it for folders of your own only.
        provider: of ONNX Runtime: "cpu" (the default), "cuda" or "tensorrt"; a provider that is
            not there is an error, never replaced by another.
        precision: of OpenVINO: "fp32" (the default), or "bf16" for float32 products that are
            computed in bf16, which is faster on CPUs that multiply it.
        device: number of the GPU.
        threads: of one operator on the CPU; by default all cores. Torch's, for "aoti", are those
            of the whole process.

    Raises:
        ValueError: the folder is damaged, or the backend or provider is missing here.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        backend: str = "onnxruntime",
        provider: str | None = None,
        precision: str | None = None,
        device: int = 0,
        threads: int | None = None,
    ) -> None:
        if backend not in BACKENDS:
            raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
        for name, number, least in (("threads", threads, 1), ("device", device, 0)):
            if number is not None and not (isinstance(number, int) and number >= least):
                raise ValueError(
                    f"{name} must be a whole number of at least {least}, got {number!r}"
                )
        self.folder = read_exported_folder(folder, kind="aoti" if backend == "aoti" else "onnx")
        self.backend = backend
        self.provider = _check_backend(backend, provider)
        self.precision = _check_precision(backend, precision)
        self._device = device
        self._threads = threads
        self._sessions: dict[str, _Session] = {}
        self._lock = threading.Lock()

    def encode_video(self, frames: np.ndarray) -> np.ndarray:
        """Embed whole clips.

        Args:
            frames: `(batch, frames, channels, height, width)` uint8 RGB of the model's size.

        Returns:
            `(batch, width)` float32, unit norm.

        Raises:
            ValueError: the clips are not uint8, not of the model's size, or too many.
        """
        return self.run("video", {"frames": frames})["video_embed"]

    def encode_text(self, text: Text) -> np.ndarray:
        """Embed captions.

        Args:
            text: a caption, several, or a pair of `(batch, tokens)` int64 arrays: token ids, and
                1 where one is real, 0 where it is padding on the right.

        Returns:
            `(batch, width)` float32, unit norm.

        Raises:
            ValueError: there are too many captions, one has no word or too many tokens, or the
                arrays are not what they must be.
        """
        return self.run("text", self._text_inputs("text", text))["text_embed"]

    def match(self, frames: np.ndarray, text: Text) -> np.ndarray:
        """Probability that clip i and caption i belong together.

        Args:
            frames: as for `encode_video`.
            text: as many captions, as for `encode_text`.

        Returns:
            `(batch,)` float32 in [0, 1].

        Raises:
            ValueError: the numbers of clips and captions differ, or as for the encoders.
        """
        inputs = {"frames": frames, **self._text_inputs("match", text)}
        return self.run("match", inputs)["match_probability"]

    def run(self, graph: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run a graph by name, its inputs checked first.

        Returns:
            Its outputs by name.

        Raises:
            ValueError: there is no such graph, or an input is not of a declared type and size.
            RuntimeError: the library or the GPU failed, out of memory for example.
        """
        spec = self.folder.graph(graph)
        check_inputs(spec, inputs)
        self._check_values(inputs)
        arrays = {tensor.name: np.ascontiguousarray(inputs[tensor.name]) for tensor in spec.inputs}
        return self.open(graph).run(arrays)

    def open(self, graph: str) -> "_Session":
        """Open a graph before its first use, as a server does when it starts.

        Raises:
            ValueError: the graph's file or engine is missing, damaged or not for this machine.
        """
        with self._lock:
            if graph not in self._sessions:
                self._sessions[graph] = self._open(self.folder.graph(graph))
            return self._sessions[graph]

    def close(self) -> None:
        """Let go of the graphs and of the memory they hold on a GPU."""
        with self._lock:
            for session in self._sessions.values():
                session.close()
            self._sessions.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @cached_property
    def _tokenizer(self) -> Any:
        try:
            from export.runtime.captions import load_tokenizer
        except ImportError as error:
            raise ValueError(
                f"captions as text need the package tokenizers ({error}); pip install "
                "tokenizers, or give token ids and their attention mask"
            ) from error
        return load_tokenizer(self.folder.path / "tokenizer.json")

    def _open(self, spec: GraphSpec) -> "_Session":
        # Each backend is imported only where it is used: a server needs one of them.
        if self.precision is not None:
            from export.runtime.openvino_session import OpenVinoSession

            file = self.folder.file(spec.name)
            return OpenVinoSession(file, spec, precision=self.precision, threads=self._threads)
        if self.backend == "aoti":
            from export.runtime.aoti_session import AotiSession, read_compiled_for

            return AotiSession(
                self.folder.file(spec.name),
                spec,
                read_compiled_for(self.folder),
                device=self._device,
                threads=self._threads,
            )
        if self.provider is None:
            from export.runtime.engine import Engine
            from export.runtime.engine_file import find_engine_file

            file = find_engine_file(self.folder.path, spec, backend=self.backend)
            return Engine(file, device=self._device)
        from export.runtime.onnx_session import OnnxSession

        return OnnxSession(
            self.folder.file(spec.name),
            spec,
            provider=self.provider,
            device=self._device,
            threads=self._threads,
            half=self.folder.precision == "fp16",
        )

    def _check_values(self, inputs: Mapping[str, np.ndarray]) -> None:
        if "token_ids" in inputs:
            check_attention_mask(inputs["attention_mask"])
            advice = "use the tokenizer.json of the folder"
            count = self.folder.vocab_size
            check_indices("token_ids", inputs["token_ids"], count=count, advice=advice)
        if "keep" in inputs:
            advice = "number the tubelets over time, then rows, then columns"
            check_indices("keep", inputs["keep"], count=self.folder.num_tubelets, advice=advice)

    def _text_inputs(self, graph: str, text: Text) -> dict[str, np.ndarray]:
        if isinstance(text, tuple) and len(text) == 2 and isinstance(text[0], np.ndarray):
            return {"token_ids": text[0], "attention_mask": np.asarray(text[1])}
        if not isinstance(text, Sequence):
            raise ValueError(
                "text must be a caption, a list of them or (token_ids, attention_mask), got "
                f"{type(text).__name__}"
            )
        captions = [text] if isinstance(text, str) else text
        # Before the tokenizer, which takes seconds for some thousands.
        if captions:
            check_batch(self.folder.graph(graph), len(captions))
        tokenizer = self._tokenizer
        from export.runtime.captions import encode_captions

        tokens = encode_captions(
            tokenizer,
            captions,
            max_length=self.folder.max_text_length,
            min_columns=self.folder.graph(graph).ranges["tokens"].smallest,
        )
        return tokens._asdict()


class _Session(Protocol):
    """An opened graph."""

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]: ...

    def close(self) -> None: ...


def _check_backend(backend: str, provider: str | None) -> str | None:
    """The provider of ONNX Runtime; None for the others."""
    if backend == "onnxruntime":
        try:
            from export.runtime.onnx_session import check_provider
        except ImportError as error:
            raise ValueError(
                f"backend 'onnxruntime' cannot be imported ({error}); pip install onnxruntime"
            ) from error
        check_provider(provider or "cpu")
        return provider or "cpu"
    if provider is not None:
        raise ValueError(
            f"provider is a setting of backend 'onnxruntime', got {provider!r} with {backend!r}; "
            "leave it out"
        )
    if backend == "aoti":
        from export.runtime.aoti_session import import_torch

        import_torch()
    elif backend != "openvino":
        from export.runtime.engine import import_tensorrt

        import_tensorrt(backend)
    return None


def _check_precision(backend: str, precision: str | None) -> str | None:
    """What OpenVINO computes in; None for another backend."""
    if backend != "openvino":
        if precision is not None:
            raise ValueError(
                f"precision is a setting of backend 'openvino', got {precision!r} with "
                f"{backend!r}, where it is that of the folder; leave it out"
            )
        return None
    try:
        from export.runtime.openvino_session import PRECISIONS
    except ImportError as error:
        raise ValueError(
            f"backend 'openvino' cannot be imported ({error}); pip install openvino"
        ) from error
    if (precision or "fp32") not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    return precision or "fp32"
