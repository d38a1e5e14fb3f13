"""Held-out retrieval of a trained model: `python -m simvtp.pipelines.evaluate --model DIR`.

Text to video and video to text, several captions per clip allowed; equal scores count as put in
order at random, in expectation. The figures to compare models by are those of the cosine. With
--rerank K the best K of each query are also put in the order of their matching probability, alone
and with the cosine, with --dual-softmax all queries share out the clips; each method is reported
under its own name. --learned adds pixels, words and matching, each beside chance or a floor.
Intervals (95 %) come from resampling the clips, with all captions of a clip together.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import torch

from simvtp.command_line import (
    add_computing,
    add_data_options,
    add_max_bad_share,
    add_precision,
    at_least,
    clips_by_crops,
    command_parser,
    run_command,
)
from simvtp.config import RunConfig
from simvtp.config.json_file import write_json
from simvtp.data import ClipRecord, ClipTable, TooManyBadClips, load_clips
from simvtp.data.annotations import Missing, load_retrieval
from simvtp.data.corpus.rendering import held_out_manifest
from simvtp.data.datasets.quarantine import require_few_bad
from simvtp.layers.precision import products_in
from simvtp.model import SimVTP
from simvtp.pipelines.evaluate.report import (
    COMPARISON_NOTE,
    DUAL_SOFTMAX_NOTE,
    Findings,
    as_report,
)
from simvtp.pipelines.learned import measure_learned, measure_pixels
from simvtp.pipelines.learned.figures import Learned, learned_table
from simvtp.pipelines.unknown_words import tell_unknown_captions
from simvtp.printing import Console, Progress, printable, progress_console
from simvtp.retrieval.comparison import (
    LEVEL,
    PERCENT,
    compare,
    comparison_table,
    in_words,
    intervals_of,
)
from simvtp.retrieval.methods import COSINE, DUAL_SOFTMAX, Evaluation, evaluate
from simvtp.retrieval.sheet import make_sheet
from simvtp.retrieval.sheet_files import draw_sheet, require_sheet_name
from simvtp.retrieval.table import retrieval_table
from simvtp.training import choose_device, choose_precision


def build_parser() -> argparse.ArgumentParser:
    """Command line of the evaluation."""
    renamed = {f"--data.{name}": f"--{name}" for name in ("root", "split", "missing")}
    parser = command_parser("simvtp.pipelines.evaluate", description=__doc__, renamed=renamed)
    add = parser.add_argument
    add("--model", required=True, help="model folder, shapes or hub id")
    add_data_options(
        parser,
        said="held-out clips: a benchmark's captions, a folder of videos with captions, a table, "
        "shards; default: the embedded corpus's",
    )
    add("--split", help="part of --data: a name in it, or a file with video ids")
    add(
        "--missing",
        choices=get_args(Missing),
        default="refuse",
        help="what to do where a benchmark's video has no file; default: %(default)s",
    )
    add(
        "--views",
        type=clips_by_crops,
        default=(1, 1),
        metavar="CLIPSxCROPS",
        help="clips over the length of a video and crops of each, whose features are averaged",
    )
    add("--rerank", type=at_least(0), default=0, metavar="K", help="re-rank the best K")
    add("--dual-softmax", action="store_true", help="also score with all queries at once")
    add(
        "--learned",
        action="store_true",
        help="also measure hidden pixels and words, matching and re-ranking of the first 256 clips",
    )
    add(
        "--video-alone",
        action="store_true",
        help="measure hidden pixels of the first 256 clips and nothing else; needs no captions",
    )
    add(
        "--train",
        metavar="DATA",
        help="training clips, whose captions give --learned the floor of the words",
    )
    add("--compare", metavar="OTHER_MODEL", help="test whether the model is better than another")
    add(
        "--bootstrap",
        type=at_least(0),
        default=1000,
        metavar="N",
        help="resamples of the clips for intervals and tests; 0 for no intervals",
    )
    add("--seed", type=int, default=0, help="seed of the resamples")
    add_computing(parser)
    add_precision(parser)
    add_max_bad_share(parser)
    add("--json", type=Path, metavar="FILE", help="write everything measured to FILE")
    add(
        "--sheet",
        type=Path,
        metavar="FILE",
        help="show the best, worst and most confused queries with frames, as .html or .png",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Evaluate; returns the exit code: 1 for too many bad clips, 2 for a bad model or manifest."""
    options = build_parser().parse_args(arguments)
    refused = (ValueError, RuntimeError)
    return run_command(_run, options, failed=(TooManyBadClips,), refused=refused)


def _run(options: argparse.Namespace, console: Console) -> None:
    _check_options(options)
    if options.data is None:
        options.data = str(held_out_manifest())
        console.note(f"data: the embedded corpus's held-out clips, {options.data}")
    where = {
        "root": options.root,
        "columns": options.columns,
        "follow_links": options.follow_links,
    }
    if options.video_alone:
        _evaluate_video(options, load_clips(options.data, **where), console)
        return
    records = load_retrieval(options.data, split=options.split, missing=options.missing, **where)
    models = _load_models(options, console)
    if isinstance(records, ClipTable):
        console.note(f"data: {records.summary()}")
    for model in models:
        tell_unknown_captions(console, model.tokenizer, records)
    with _products(options, models[0]):
        evaluations = evaluate(
            models,
            records,
            top=options.rerank,
            with_dual_softmax=options.dual_softmax,
            views=options.views,
            batch_size=options.batch_size,
            num_workers=options.workers,
            console=progress_console(),
        )
        learned = _measure_learned(options, models[0], records, evaluations[0])
    findings = _judge(evaluations, num_samples=options.bootstrap, seed=options.seed)
    _print(findings, records, console)
    if learned is not None:
        console.print(learned_table(learned))
    if options.json is not None:
        _write_report(options, models[0], as_report(findings, records), learned)
        console.print(f"figures: {options.json}")
    if options.sheet is not None:
        _draw(options, models[0], records, evaluations[0])
        console.print(f"sheet: {options.sheet}")
    require_few_bad(
        len(evaluations[0].gallery.unreadable),
        len(records),
        max_bad_share=options.max_bad_share,
        what="the figures are",
        option="--max-bad-share",
    )


def _evaluate_video(options: argparse.Namespace, records: ClipTable, console: Console) -> None:
    """Figures of clips that need no captions."""
    console.note(f"data: {records.summary()}")
    (model,) = _load_models(options, console)
    with _products(options, model):
        learned = measure_pixels(
            model,
            records,
            seed=options.seed,
            batch_size=options.batch_size,
            num_workers=options.workers,
            console=console,
        )
    console.print(learned_table(learned))
    if options.json is not None:
        figures = {"num_clips": learned.num_clips, "figures": learned.as_dict()}
        write_json(options.json, {"model": options.model, "data": options.data, "learned": figures})
        console.print(f"figures: {options.json}")


def _write_report(
    options: argparse.Namespace, model: SimVTP, found: dict[str, Any], learned: Learned | None
) -> None:
    report = {
        "model": options.model,
        "compared_with": options.compare,
        "data": options.data,
        "split": options.split,
        "cut": _cut_of(model),
        "views": "x".join(str(number) for number in options.views),
        "bootstrap": {"samples": options.bootstrap, "level": LEVEL, "seed": options.seed},
        **found,
    }
    if learned is not None:
        report["learned"] = {"num_clips": learned.num_clips, "figures": learned.as_dict()}
    options.json.parent.mkdir(parents=True, exist_ok=True)
    write_json(options.json, report)


def _measure_learned(
    options: argparse.Namespace,
    model: SimVTP,
    records: Sequence[ClipRecord],
    evaluation: Evaluation,
) -> Learned | None:
    """What the model has learned, where it is asked for."""
    if not options.learned:
        return None
    train = None if options.train is None else load_retrieval(options.train, missing="leave out")
    captions = (caption for record in train or () for caption in record.captions)
    return measure_learned(
        model,
        records,
        gallery=evaluation.gallery,
        train_captions=captions,
        seed=options.seed,
        batch_size=options.batch_size,
        num_workers=options.workers,
        console=progress_console(),
    )


def _load_models(options: argparse.Namespace, console: Console) -> list[SimVTP]:
    """The model and perhaps another one, each with a word on the clips that it sees."""
    device = choose_device(RunConfig(device=options.device))
    names = [options.model] if options.compare is None else [options.model, options.compare]
    models = [SimVTP.from_pretrained(name).to(device) for name in names]
    for name, model, role in zip(names, models, ("the model", "the other"), strict=False):
        called = "" if options.compare is None else f" ({role})"
        console.note(printable(f"clips for {name}{called}: {_cut_of(model)}"))
    if len(models) == 2 and _are_same(*models):
        console.note("note: the two models have the same weights", style="yellow")
    return models


def _are_same(first: SimVTP, second: SimVTP) -> bool:
    own, other = first.state_dict(), second.state_dict()
    return own.keys() == other.keys() and all(torch.equal(own[name], other[name]) for name in own)


def _products(options: argparse.Namespace, model: SimVTP) -> torch.autocast:
    run = RunConfig(precision=options.precision)
    return products_in(choose_precision(run, device=model.device), model.device)


def _cut_of(model: SimVTP) -> str:
    return model.frame_spacing.clip_of(model.config.num_frames)


def _check_options(options: argparse.Namespace) -> None:
    if options.sheet is not None:
        require_sheet_name(options.sheet)
    if options.compare is not None and options.bootstrap == 0:
        raise ValueError("--compare needs resamples, got --bootstrap 0; leave --bootstrap away")
    others = [
        f"--{name.replace('_', '-')}"
        for name in ("split", "rerank", "dual_softmax", "learned", "compare", "sheet")
        if getattr(options, name)
    ]
    if options.video_alone and others:
        raise ValueError(f"--video-alone measures pixels alone; leave {', '.join(others)} away")
    if options.train is not None and not options.learned:
        raise ValueError(f"--train {options.train} is for --learned; add that, or leave it away")
    for file in (options.json, options.sheet):
        # Better before the evaluation than after it.
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)


def _judge(evaluations: Sequence[Evaluation], *, num_samples: int, seed: int) -> Findings:
    own, other = evaluations[0], evaluations[1] if len(evaluations) > 1 else None
    settings = {"num_samples": num_samples, "seed": seed}
    return Findings(
        own,
        other,
        intervals_of(own.ranks, own.gallery, **settings) if num_samples else None,
        None if other is None else compare(own.ranks, other.ranks, own.gallery, **settings),
    )


def _print(findings: Findings, records: Sequence[ClipRecord], console: Console) -> None:
    evaluation, num_clips = findings.evaluation, len(findings.evaluation.gallery.clip_index)
    console.print(retrieval_table(evaluation.results(), intervals=findings.intervals))
    if findings.intervals is not None:
        _say(
            console,
            f"below a figure: its {PERCENT} interval, from resampling the clips",
        )
    if DUAL_SOFTMAX in evaluation.ranks:
        _say(console, DUAL_SOFTMAX_NOTE)
    if findings.comparison is not None:
        console.print(comparison_table(findings.comparison, num_clips=num_clips))
        for sentence in in_words(findings.comparison, num_clips=num_clips):
            _say(console, sentence)
        _say(console, COMPARISON_NOTE)
    for number, reason in evaluation.gallery.unreadable.items():
        _say(console, f"left out {records[number].name}: {reason}")
    if evaluation.gallery.unreadable:
        _say(console, f"the figures are of {num_clips} of {len(records)} clips")


def _say(console: Console, text: str) -> None:
    console.print(printable(text))


def _draw(
    options: argparse.Namespace,
    model: SimVTP,
    records: Sequence[ClipRecord],
    evaluation: Evaluation,
) -> None:
    with Progress(console=progress_console(), transient=True) as progress:
        sheet = make_sheet(
            model,
            records,
            evaluation.gallery,
            ranks=evaluation.ranks[COSINE].text_to_video,
            title=f"{options.model} on the clips of {options.data}",
            num_workers=options.workers,
            progress=progress,
        )
    draw_sheet(sheet, out=options.sheet)
