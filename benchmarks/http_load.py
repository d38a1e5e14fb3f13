"""A served model under load on loopback: `python -m benchmarks.http_load --model shapes`.

Clients that each send one request after the other share the machine's cores with the server, which
is started for this and ended. Captions go to /v1/embeddings, drawn clips (or `--video FILE`) to
/v1/videos/embeddings. Beside it stands what the model alone does in one process, without HTTP, and
without decoding. `--port` asks a server that is there already.
"""

import argparse
import http.client
import itertools
import json
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.table import Table

from benchmarks.manifest import shared_size
from benchmarks.measure import command_line, machine
from simvtp import SimVTP, read_video
from simvtp.command_line import at_least
from simvtp.data.corpus.rendering import render_corpus
from simvtp.printing import Console
from simvtp.retrieval.embedding import encode

_BATCH = 16
_COLOURS, _SHAPES = ("red", "blue", "green", "white"), ("circle", "square", "ring", "star")
_CAPTIONS = [
    f"a {colour} {shape} moves to the {side}"
    for colour, shape, side in itertools.product(_COLOURS, _SHAPES, ("left", "right"))
]
_MEMORY_SECONDS = 0.25


class Sent(NamedTuple):
    """A request: where to, what, and of what type."""

    path: str
    body: bytes
    kind: str


class Load(NamedTuple):
    """What some clients saw.

    Attributes:
        seconds: of each answered request.
        wall: seconds from the first request to the last answer.
        refused: requests that got another status than 200.
    """

    seconds: list[float]
    wall: float
    refused: int


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table and write the JSON file."""
    options = _parser().parse_args(arguments)
    videos = [options.video] if options.video else _drawn_videos()
    requests = {
        "text": [_text(caption) for caption in _CAPTIONS],
        "video": [_video(file) for file in videos],
    }
    rows: list[dict[str, Any]] = []
    with _server(options) as (port, process):
        for kind, clients in itertools.product(options.kinds, options.clients):
            run_clients(port, requests[kind], clients=1, seconds=options.warmup)
            with _peak_memory(process) as peak:
                load = run_clients(port, requests[kind], clients=clients, seconds=options.seconds)
            rows.append({"kind": kind, "clients": clients, **figures_of(load), "memory_mb": peak()})
    result = {
        "command": command_line("benchmarks.http_load"),
        "machine": machine(torch.device("cpu")),
        "settings": {name: _plain(value) for name, value in vars(options).items()},
        "served": rows,
        "alone": {} if options.port else _alone(options, videos[0]),
    }
    _print(result)
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    return 0


def run_clients(port: int, requests: Sequence[Sent], *, clients: int, seconds: float) -> Load:
    """Have clients send requests for some seconds, each one after the other.

    Args:
        port: of the server on this machine.
        requests: taken in turn.
        clients: how many, each on a connection of its own.
        seconds: after which no further request is begun.
    """
    end = time.perf_counter() + seconds
    took: list[list[float]] = [[] for _ in range(clients)]
    refused = [0] * clients

    def ask(client: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
        for sent in itertools.islice(itertools.cycle(requests), client, None):
            begun = time.perf_counter()
            if begun > end:
                break
            connection.request("POST", sent.path, sent.body, {"Content-Type": sent.kind})
            answer = connection.getresponse()
            answer.read()
            if answer.status == http.client.OK:
                took[client].append(time.perf_counter() - begun)
            else:
                refused[client] += 1
        connection.close()

    begun = time.perf_counter()
    threads = [threading.Thread(target=ask, args=[client]) for client in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wall = time.perf_counter() - begun
    return Load(list(itertools.chain(*took)), wall, sum(refused))


def figures_of(load: Load) -> dict[str, float]:
    """Rate and latencies of a load, milliseconds; of no answer, zeros."""
    cuts = np.percentile(load.seconds, (50, 95, 99)) if load.seconds else np.zeros(3)
    return {
        "requests": len(load.seconds),
        "refused": load.refused,
        "requests_per_second": len(load.seconds) / load.wall,
        **{
            f"p{cut}_ms": 1000 * float(value) for cut, value in zip((50, 95, 99), cuts, strict=True)
        },
    }


def _text(caption: str) -> Sent:
    body = json.dumps({"input": caption, "encoding_format": "base64"}).encode()
    return Sent("/v1/embeddings", body, "application/json")


def _video(file: Path) -> Sent:
    path = "/v1/videos/embeddings?encoding_format=base64"
    return Sent(path, file.read_bytes(), "application/octet-stream")


def _drawn_videos() -> list[Path]:
    corpus = render_corpus(num_up_front=0)
    return [Path(str(clip.path)) for clip in corpus.validation_clips()[:8]]


@contextmanager
def _server(options: argparse.Namespace) -> Iterator[tuple[int, int | None]]:
    """Port of a server, and its process where it was started here."""
    if options.port:
        yield options.port, None
        return
    command = [sys.executable, "-m", "simvtp.pipelines.serve", f"--model={options.model}"]
    command += ["--port=0", "--quiet", *options.server]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)/", said)
        if found is None:
            raise RuntimeError(f"the server did not start: {said}{process.stdout.read()}")
        try:
            yield int(found[1]), process.pid
        finally:
            process.terminate()


@contextmanager
def _peak_memory(process: int | None) -> Iterator[Callable[[], float]]:
    """Largest sum of the proportional sizes of a process and its children, in MB, so far."""
    peak, is_over = 0.0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while True:
            peak = max(peak, sum(map(shared_size, _family(str(process)))) / 1e3)
            if is_over.wait(_MEMORY_SECONDS):
                return

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield lambda: peak
    finally:
        is_over.set()
        thread.join()


def _family(process: str) -> list[str]:
    """A process and all that it has started."""
    children: list[str] = []
    for file in Path("/proc", process, "task").glob("*/children"):
        children += file.read_text().split()
    return [process, *itertools.chain(*map(_family, children))]


def _alone(options: argparse.Namespace, video: Path) -> dict[str, float]:
    """Rows that the model embeds in a second without a server, for each number of them."""
    try:
        model = SimVTP.from_pretrained(options.model)
    except ValueError:
        # An exported folder; python -m export.bench times that.
        return {}
    clip = read_video(video, model)
    rates: dict[str, float] = {}
    for size in (1, _BATCH):
        for kind, batch in (
            ("text", _CAPTIONS[:size]),
            ("video", clip.expand(size, *clip[0].shape)),
        ):
            encode(model, batch, precision="fp32")
            seconds = []
            for _ in range(options.rounds):
                begun = time.perf_counter()
                encode(model, batch, precision="fp32")
                seconds.append(time.perf_counter() - begun)
            rates[f"{kind}_of_{size}_per_second"] = size / statistics.median(seconds)
    return rates


def _print(result: dict[str, Any]) -> None:
    table = Table(title="Load over HTTP")
    columns = {"kind": 0, "clients": 0, "requests_per_second": 1, "p50_ms": 1, "p95_ms": 1}
    columns |= {"p99_ms": 1, "refused": 0, "memory_mb": 0}
    for name in columns:
        table.add_column(name.replace("_", " "), justify="left" if name == "kind" else "right")
    for row in result["served"]:
        told = (
            row[name] if name == "kind" else f"{row[name]:.{n}f}" for name, n in columns.items()
        )
        table.add_row(*told)
    console = Console()
    console.print(table)
    for name, rate in result["alone"].items():
        console.print(f"the model alone, {name.replace('_', ' ')}: {rate:.1f}")


def _plain(value: object) -> object:
    return str(value) if isinstance(value, Path) else value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", default="shapes", help="as for simvtp serve; %(default)s")
    add("--port", type=at_least(1), help="of a server on this machine, instead of starting one")
    add("--server", nargs="*", default=[], metavar="OPTION=X", help="further options of the server")
    add("--kinds", nargs="+", choices=("text", "video"), default=["text", "video"])
    add("--clients", nargs="+", type=at_least(1), default=[1, 8, 32], metavar="N")
    add("--seconds", type=float, default=10.0, help="of each load; %(default)s")
    add("--warmup", type=float, default=1.0, help="seconds before each; %(default)s")
    add("--rounds", type=at_least(1), default=10, help="of the model alone; %(default)s")
    add("--video", type=Path, help="to send; default: drawn clips of the corpus")
    add("--json", type=Path, help="where the figures go")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
