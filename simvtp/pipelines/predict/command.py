"""Say what is in videos: `python -m simvtp.pipelines.predict --model RUN/model --data DIR`.

A model fine-tuned for classification tells the likeliest classes, one fine-tuned for questions
(--task qa) the likeliest answers to each --question, out of those that it knows or of --options. A
video that cannot be read, or that crashes its decoder, is named and left out. In Python:
`predict(load_task_model(folder), files)`.
"""

import argparse
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from simvtp.command_line import (
    add_computing,
    add_data_options,
    add_max_bad_share,
    at_least,
    clips_by_crops,
    command_parser,
    run_command,
)
from simvtp.config import RunConfig
from simvtp.data import ClipTable, TooManyBadClips, load_clips
from simvtp.data.clip_table import portable_name
from simvtp.data.datasets.quarantine import require_few_bad
from simvtp.data.listed_files import progress_of
from simvtp.pipelines.predict.report import Files, Row, Shown
from simvtp.pipelines.unknown_words import tell_unknown_texts
from simvtp.printing import Console
from simvtp.tasks import VideoAnswerer
from simvtp.tasks.loading import load_task_model
from simvtp.tasks.predicting import PredictedBatch, predicted_batches
from simvtp.training import choose_device


def build_parser() -> argparse.ArgumentParser:
    """Command line of the prediction."""
    renamed = {"--videos": "--data"}
    parser = command_parser("simvtp.pipelines.predict", description=__doc__, renamed=renamed)
    whole = at_least(1)
    add = parser.add_argument
    add("--model", required=True, help="folder of a fine-tuned model, or hub id")
    add_data_options(parser, required=True)
    add("--question", action="append", default=[], help="asked of each video; may be repeated")
    add("--options", nargs="+", default=[], metavar="ANSWER", help="for a model that chooses")
    add("--top", type=whole, default=5, metavar="K", help="likeliest to tell; %(default)s")
    add(
        "--views",
        type=clips_by_crops,
        default=(1, 1),
        metavar="CLIPSxCROPS",
        help="clips over the length of a video and crops of each, as in fine-tuning's test; 1x1",
    )
    add("--json", type=Path, metavar="FILE", help="write a line of JSON for each video to FILE")
    add("--csv", type=Path, metavar="FILE", help="write a row for each guess to FILE")
    add_computing(parser)
    add("--time-limit", type=whole, default=60, metavar="SECONDS", help="for one video; 60")
    add_max_bad_share(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Predict; the exit code: 1 for too many bad videos, 2 for bad settings; Ctrl-C gives 130."""
    return run_command(
        _run,
        build_parser().parse_args(arguments),
        failed=(TooManyBadClips,),
        refused=(ValueError, RuntimeError),
        stopped="interrupted; what was written stays",
    )


def _run(options: argparse.Namespace, console: Console) -> None:
    model = load_task_model(options.model).to(choose_device(RunConfig(device=options.device)))
    records = load_clips(
        options.data,
        root=options.root,
        columns=options.columns,
        follow_links=options.follow_links,
    )
    predicted = predicted_batches(
        model,
        records,
        questions=options.question,
        options=options.options,
        top=options.top,
        views=options.views,
        batch_size=options.batch_size,
        num_workers=options.workers,
        time_limit=options.time_limit,
    )
    console.note(f"data:  {records.summary()}")
    console.note(f"clips: {model.frame_spacing.clip_of(model.config.num_frames)}")
    if isinstance(model, VideoAnswerer):
        texts = [*options.question, *options.options]
        tell_unknown_texts(console, model.tokenizer, texts, what="questions")
    shown = Shown(with_questions=bool(options.question))
    files = Files(json_lines=options.json, csv_table=options.csv)
    progress = progress_of("Predicting", total=len(records))
    with closing(predicted), closing(files), progress as advance:
        for batch in predicted:
            for row in _rows(batch, records, options.question):
                shown.add(row)
                files.add(row)
            files.flush()
            advance(len(batch.best) + len(batch.errors))
    shown.print(console)
    for file in files.written:
        console.print(f"written: {file}")
    require_few_bad(
        shown.num_unreadable,
        len(records),
        max_bad_share=options.max_bad_share,
        what="the predictions are",
        option="--max-bad-share",
    )


def _rows(batch: PredictedBatch, records: ClipTable, questions: Sequence[str]) -> list[Row]:
    """Rows of a batch in the order of its records: one for each question, or for what is wrong."""
    found = {number: [Row("", "", error=reason)] for number, reason in batch.errors}
    for number, best in batch.best.items():
        asked = zip(questions or (None,), best, strict=True)
        found[number] = [Row("", "", question=text, best=guesses) for text, guesses in asked]
    return [
        row._replace(
            video_id=records[number].video_id, name=portable_name(records[number], records.root)
        )
        for number, rows in sorted(found.items())
        for row in rows
    ]
