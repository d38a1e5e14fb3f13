"""Moments of your videos by what they show: `python -m simvtp.pipelines.search --index X "QUERY"`.

The query is some words, --image FILE, or --video FILE@SECONDS for more like a moment of a video.
Each result is a file, a moment in it and a score, the cosine of query and moment. The index is
made with `python -m simvtp.pipelines.index`; --demo makes one of drawn clips, without any data.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from simvtp.command_line import add_precision, at_least, command_parser, run_command
from simvtp.config import RunConfig
from simvtp.config.json_file import write_json
from simvtp.layers.precision import products_in
from simvtp.pipelines.search.demo import demo_searcher
from simvtp.pipelines.search.query import image_vector, video_place, video_vector
from simvtp.pipelines.search.results import as_values, results_page, results_table, save_moments
from simvtp.pipelines.search.searcher import Found, Searcher
from simvtp.pipelines.unknown_words import tell_unknown_texts
from simvtp.printing import Console
from simvtp.retrieval.html_page import write_page
from simvtp.training import choose_device, choose_precision

_STANDARD_OUTPUT = Path("-")


def build_parser() -> argparse.ArgumentParser:
    """Command line of the search."""
    parser = command_parser("simvtp.pipelines.search", description=__doc__)
    add = parser.add_argument
    add("query", nargs="?", metavar="QUERY", help="what the video shows, in words")
    add("--image", type=Path, metavar="FILE", help="instead: moments that look like a picture")
    add("--video", metavar="FILE[@SECONDS]", help="instead: like this video, from that second on")
    add("--index", metavar="INDEX", help="folder of the index, or s3://...")
    add("--demo", action="store_true", help="an index of drawn clips; without a query as a page")
    add("--model", help="where it is not found by the name that the index was made with")
    add(
        "--root",
        action="append",
        metavar="DIR",
        help="where the videos of an index from elsewhere are; once for each folder that it is of",
    )
    add("--top", type=at_least(1), default=10, metavar="N", help="number of results; %(default)s")
    add(
        "--where",
        metavar="SQL",
        help="a condition on file, caption, start and end: \"file LIKE 'trip/%%' AND start < 60\"",
    )
    add(
        "--rerank",
        type=at_least(0),
        default=0,
        metavar="K",
        help="put the best K in order with the matching head's help; their videos are read again",
    )
    add("--exact", action="store_true", help="compare with every vector of a large index, too")
    add("--text-in-captions", action="store_true", help="captions with its words rank too")
    add("--json", type=Path, metavar="FILE", help="write the results; - prints them instead")
    add("--html", type=Path, metavar="FILE", help="write one page with a picture of each result")
    add("--save", type=Path, metavar="DIR", help="cut the moments out, into files in DIR")
    add("--serve", action="store_true", help="open a page to search on, on this machine")
    add("--host", default="127.0.0.1", help="of the page, a loopback address; %(default)s")
    add("--port", type=at_least(0), default=7860, metavar="N", help="of the page; %(default)s")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto")
    add_precision(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Search, or serve the page; the exit code: 2 where something is wrong with query or index."""
    options = build_parser().parse_args(arguments)
    return run_command(_run, options, refused=(ValueError, RuntimeError))


def _run(options: argparse.Namespace, console: Console) -> None:
    _require_fitting(options)
    searcher = _open(options)
    if options.save is not None:
        searcher.index.require_roots()
    if _is_page(options):
        _say_what_plays(searcher, console)
        _serve(searcher, options)
    else:
        _search(searcher, options, console)


def _require_fitting(options: argparse.Namespace) -> None:
    queries = {"a QUERY": options.query, "--image": options.image, "--video": options.video}
    given = [name for name, value in queries.items() if value is not None]
    if len(given) > 1:
        raise ValueError(f"search for one thing at a time, got {' and '.join(given)}")
    if (options.index is None) != options.demo:
        raise ValueError("give --index INDEX, or --demo for an index of drawn clips")
    if options.demo and options.model is not None:
        raise ValueError("--demo is searched with the model that ships; leave --model out")
    if options.demo and options.root is not None:
        raise ValueError("--demo knows where its clips are; leave --root out")
    outputs = [name for name in ("json", "html", "save") if getattr(options, name) is not None]
    if options.serve and (given or outputs):
        named = [*given, *(f"--{name}" for name in outputs)]
        raise ValueError(f"--serve asks for the query on its page; leave out {', '.join(named)}")
    if not given and (outputs or not (options.serve or options.demo)):
        raise ValueError(
            "say what to look for: some words, --image FILE or --video FILE@SECONDS; or --serve "
            "for a page to search on"
        )
    if options.query is None and (options.text_in_captions or options.rerank):
        name = "--rerank" if options.rerank else "--text-in-captions"
        raise ValueError(f"{name} goes with a query in words; leave it out")


def _is_page(options: argparse.Namespace) -> bool:
    return options.serve or all(
        one is None for one in (options.query, options.image, options.video)
    )


def _open(options: argparse.Namespace) -> Searcher:
    run = RunConfig(device=options.device, precision=options.precision)
    device = choose_device(run)
    precision = choose_precision(run, device=torch.device(device))
    if options.demo:
        return demo_searcher(device=device, precision=precision)
    where = {"model": options.model, "roots": options.root}
    return Searcher.open(options.index, device=device, precision=precision, **where)


def _say_what_plays(searcher: Searcher, console: Console) -> None:
    try:
        searcher.index.require_roots()
    except ValueError as error:
        console.note(f"results will not play: {error}", style="yellow")


def _serve(searcher: Searcher, options: argparse.Namespace) -> None:
    from simvtp.pipelines.search.page import serve

    serve(searcher, host=options.host, port=options.port)


def _search(searcher: Searcher, options: argparse.Namespace, console: Console) -> None:
    begun = time.perf_counter()
    query = _query(searcher, options)
    found = searcher.search(
        query,
        top=options.top,
        where=options.where,
        words=options.query if options.text_in_captions else None,
        rerank=options.rerank,
        exact=options.exact,
    )
    seconds = time.perf_counter() - begun
    told = f"{len(found.hits)} of {searcher.index.num_moments:,} moments in {seconds:.2f} s"
    if options.json == _STANDARD_OUTPUT:
        json.dump(_report(found, options), sys.stdout, indent=2)
        sys.stdout.write("\n")
        # The output holds nothing but the results.
        console = Console(stderr=True, soft_wrap=True)
    else:
        console.print(results_table(found, title=_title(options)))
        console.note(told)
        if not (options.json or options.html or options.save):
            console.note("see them: --html FILE, --save DIR or --serve, each in place of a list")
    if isinstance(query, str):
        tell_unknown_texts(console, searcher.model.tokenizer, [query], what="queries")
    _write(found, searcher, options, told, console)


def _query(searcher: Searcher, options: argparse.Namespace) -> str | Tensor:
    if options.query is not None:
        return options.query
    with products_in(searcher.precision, searcher.model.device):
        if options.image is not None:
            return image_vector(searcher.model, options.image)
        place = video_place(options.video)
        return video_vector(searcher.model, place.path, seconds=place.seconds)


def _title(options: argparse.Namespace) -> str:
    if options.query is not None:
        return options.query
    return f"like {options.video if options.image is None else options.image}"


def _report(found: Found, options: argparse.Namespace) -> dict[str, Any]:
    return {
        "query": options.query,
        "image": None if options.image is None else str(options.image),
        "video": options.video,
        "where": options.where,
        "rerank": options.rerank,
        "results": as_values(found),
    }


def _write(
    found: Found, searcher: Searcher, options: argparse.Namespace, told: str, console: Console
) -> None:
    if options.json is not None and options.json != _STANDARD_OUTPUT:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        write_json(options.json, _report(found, options))
        console.print(f"results: {options.json}")
    if options.html is not None:
        write_page(results_page(found, title=_title(options), told=told), options.html)
        console.print(f"page: {options.html}")
    if options.save is not None:
        for saved in save_moments(found, searcher.index, options.save):
            if saved.file is None:
                console.print(f"not saved: {saved.reason}", style="yellow")
                continue
            how = "copied" if saved.file.copied else "encoded anew, since no keyframe is there"
            sound = "" if saved.file.has_sound else ", without sound"
            console.print(f"{saved.file.path}: {how}{sound}")
