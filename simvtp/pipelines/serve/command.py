"""Serve a model over HTTP: `python -m simvtp.pipelines.serve --model runs/pretrain/model`.

The model is a model folder, which torch runs, or a folder that `python -m export.onnx` wrote, which
needs no torch. Texts are embedded as OpenAI's clients ask for it (POST /v1/embeddings), videos by
the same route or as uploads (POST /v1/videos/embeddings), and pairs of both are matched (POST
/match). The server listens on this machine alone unless --host says otherwise.
"""

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from export.runtime.folder import REPORT_NAME
from export.runtime.folder_runtime import BACKENDS
from simvtp.command_line import at_least, command_parser, run_command
from simvtp.extras import needs
from simvtp.pipelines.serve.settings import TASKS, ServeSettings
from simvtp.printing import Console, progress_console

if TYPE_CHECKING:
    from simvtp.pipelines.serve.models.served_model import ServedModel

TOKEN_VARIABLE = "SIMVTP_SERVE_TOKEN"
_MIB = 1 << 20


def build_parser() -> argparse.ArgumentParser:
    """Command line of the server."""
    parser = command_parser("simvtp.pipelines.serve", description=__doc__)
    add = parser.add_argument
    add("--model", required=True, help="model folder, exported folder, shapes, or a hub name")
    add("--name", help="what requests call it; default: the folder's name")
    add("--host", default="127.0.0.1", help="address to listen on; %(default)s")
    add("--port", type=at_least(0), default=8000, metavar="N", help="%(default)s; 0: a free one")
    add(
        "--token-file",
        type=Path,
        metavar="FILE",
        help=f"whose first line is the bearer token of requests; or the variable {TOKEN_VARIABLE}",
    )
    add(
        "--allow-urls",
        nargs="+",
        default=[],
        metavar="HOST",
        help="hosts that videos may be fetched from over https, and networks that are not public "
        "(10.0.0.0/8) where these hosts may be; default: none",
    )
    add("--tasks", nargs="+", choices=TASKS, help="what to answer; default: all that the model can")
    _add_running(parser.add_argument_group("how the model runs"))
    _add_limits(parser.add_argument_group("batches and limits"))
    return parser


def _add_running(group: "argparse._ArgumentGroup") -> None:
    add = group.add_argument
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="%(default)s")
    add(
        "--precision",
        choices=("fp32", "bf16"),
        help="of a model folder; fp32; an exported one has its own",
    )
    add("--backend", choices=BACKENDS, help="of an exported folder; onnxruntime")
    add("--threads", type=at_least(1), metavar="N", help="of the processor; default: all cores")


def _add_limits(group: "argparse._ArgumentGroup") -> None:
    add, default = group.add_argument, ServeSettings()

    def number(
        name: str, value: float, said: str, *, kind: Callable[[str], float] | None = None
    ) -> None:
        told = f"{said}; %(default)s"
        add(name, type=kind or at_least(1), default=value, metavar="N", help=told)

    number("--max-batch", default.max_batch, "rows of one forward pass")
    wait = 1000 * default.max_wait
    number("--max-wait-ms", wait, "that a row waits for others to share its pass", kind=float)
    number("--queue", default.queue, "rows and videos that may wait; then requests get 503")
    number("--workers", default.workers, "processes that decode videos")
    number("--max-body-mib", default.max_body // _MIB, "of a request, and of a video")
    number("--max-bodies-mib", default.max_bodies // _MIB, "of all requests under way")
    number("--max-requests", default.max_requests, "under way at a time")
    number("--max-inputs", default.max_inputs, "texts and videos of one request")
    seconds = default.request_seconds
    number("--request-seconds", seconds, "that a request may take", kind=float)
    number("--decode-seconds", default.decode_seconds, "that a video may take", kind=float)


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until a signal ends it; the exit code: 2 where something cannot be used."""
    options = build_parser().parse_args(arguments)
    return run_command(_run, options, refused=(ValueError, RuntimeError), place=options.model)


def _run(options: argparse.Namespace, console: Console) -> None:
    settings = _settings(options)
    with needs("serve", "the HTTP server"):
        from simvtp.pipelines.serve.inputs.fetching import Fetcher
        from simvtp.pipelines.serve.server import serve
    fetcher = Fetcher(
        options.allow_urls, most_bytes=settings.max_body, seconds=settings.request_seconds / 2
    )
    progress_console().print(f"loading {options.model}", markup=False)
    model = _opened(options)
    if options.tasks is not None:
        _leave_tasks(model, options.tasks)
    _warn(options, settings, console)
    name = options.name or Path(options.model).absolute().name
    told = {"name": name, "settings": settings, "fetcher": fetcher, "console": console}
    serve(model, **told, host=options.host, port=options.port)


def _settings(options: argparse.Namespace) -> ServeSettings:
    return ServeSettings(
        max_batch=options.max_batch,
        max_wait=options.max_wait_ms / 1000,
        queue=options.queue,
        workers=options.workers,
        max_body=options.max_body_mib * _MIB,
        max_bodies=options.max_bodies_mib * _MIB,
        max_requests=options.max_requests,
        max_inputs=options.max_inputs,
        request_seconds=options.request_seconds,
        decode_seconds=options.decode_seconds,
        token=_token(options.token_file),
    )


def _token(file: Path | None) -> str | None:
    if file is None:
        return os.environ.get(TOKEN_VARIABLE)
    if TOKEN_VARIABLE in os.environ:
        raise ValueError(f"give --token-file or {TOKEN_VARIABLE}, not both")
    lines = file.read_text("utf-8").splitlines()
    if not lines:
        raise ValueError(f"{file} is empty; its first line is the token")
    return lines[0].strip()


def _opened(options: argparse.Namespace) -> "ServedModel":
    if (Path(options.model) / REPORT_NAME).is_file():
        return _exported(options)
    if options.backend is not None:
        raise ValueError(
            f"--backend is for folders that python -m export.onnx wrote, and {options.model} has "
            f"no {REPORT_NAME}; leave it out"
        )
    import torch

    from simvtp.config import RunConfig
    from simvtp.model import SimVTP
    from simvtp.pipelines.serve.models.model_folder import FolderModel
    from simvtp.training import choose_device

    if options.threads is not None:
        torch.set_num_threads(options.threads)
    model = SimVTP.from_pretrained(options.model)
    device = choose_device(RunConfig(device=options.device))
    precision = options.precision or "fp32"
    return FolderModel(model.to(device), max_batch=options.max_batch, precision=precision)


def _exported(options: argparse.Namespace) -> "ServedModel":
    if options.precision is not None:
        raise ValueError(
            f"--precision is for model folders; {options.model} was exported in its own, leave it "
            "out"
        )
    from export.runtime import Runtime
    from simvtp.pipelines.serve.models.exported_folder import ExportedModel

    backend = options.backend or "onnxruntime"
    told = {"backend": backend, "threads": options.threads}
    if backend == "onnxruntime":
        told["provider"] = "cuda" if options.device == "cuda" else "cpu"
    return ExportedModel(Runtime(options.model, **told), max_batch=options.max_batch)


def _leave_tasks(model: "ServedModel", tasks: Sequence[str]) -> None:
    missing = [task for task in tasks if task not in model.tasks]
    if missing:
        raise ValueError(
            f"--tasks {' '.join(missing)}: the exported folder has only {', '.join(model.tasks)}; "
            f"export it with --graphs {' '.join(tasks)}"
        )
    model.tasks = {task: most for task, most in model.tasks.items() if task in tasks}


def _warn(options: argparse.Namespace, settings: ServeSettings, console: Console) -> None:
    from simvtp.pipelines.local_requests import is_loopback

    if settings.token is None and not is_loopback(options.host):
        console.print(
            f"anyone who reaches {options.host} may ask: set {TOKEN_VARIABLE} or --token-file, "
            "and put TLS before it",
            style="yellow",
        )
