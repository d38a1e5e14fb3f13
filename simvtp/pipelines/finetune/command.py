"""Fine-tune a pre-trained model: `python -m simvtp.pipelines.finetune --task T --model DIR ...`.

Tasks: retrieval, classification, qa (video question answering). The state that is best on the
validation split is kept, and measured once on the test split.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from simvtp.pipelines.arguments import SettingsParser, add_resume, parse_job, settings_parser
from simvtp.pipelines.finetune.job import finetune
from simvtp.pipelines.finetune.settings import DEFAULTS, SECTIONS, FinetuneConfig
from simvtp.printing import Console
from simvtp.trainer.job import run_job
from simvtp.trainer.stopping import StopRequest

PROGRAM = "python -m simvtp.pipelines.finetune"


def build_parser() -> SettingsParser:
    """Command line of the job."""
    parser = settings_parser(
        PROGRAM,
        description=__doc__ or "",
        sections=SECTIONS,
        defaults=DEFAULTS,
    )
    parser.add_argument("--task", choices=("retrieval", "classification", "qa"))
    parser.add_argument("--model", type=str, help="folder of a pre-trained model, or hub id")
    add_resume(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job; returns the exit code: 0 done or asked to stop, 1 failed, 2 bad settings."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = build_parser()
    parsed = parse_job(parser, arguments, kept=("task", "model", "tune.weights"))
    for name in ("task", "model"):
        if parsed[name] is None:
            parser.error(f"--{name} is missing")

    def job(stop: StopRequest, console: Console) -> None:
        sections = {name: getattr(parsed, name) for name in SECTIONS}
        config = FinetuneConfig(task=parsed.task, model=parsed.model, **sections)
        finetune(config, resume=parsed.resume, stop=stop, console=console)

    return run_job(
        job, program=PROGRAM, out=Path(parsed.run.out), debug=parsed.debug, quiet=parsed.quiet
    )
