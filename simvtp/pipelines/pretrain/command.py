"""Pre-train SimVTP: `python -m simvtp.pipelines.pretrain`.

Without arguments a tiny model is trained on an embedded corpus of captioned clips in about six
minutes on two cores. With `--data.train clips.csv --data.root DIR` it trains on your own clips.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from simvtp.config import (
    PRESETS,
    DataConfig,
    MaskingConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimConfig,
    PretrainConfig,
    RunConfig,
)
from simvtp.pipelines.arguments import SettingsParser, add_resume, parse_job, settings_parser
from simvtp.pipelines.pretrain.job import pretrain
from simvtp.pipelines.pretrain.summary import print_next_steps
from simvtp.printing import Console
from simvtp.trainer.job import run_job
from simvtp.trainer.stopping import StopRequest

PROGRAM = "python -m simvtp.pipelines.pretrain"
SECTIONS: dict[str, type] = {
    "model": ModelConfig,
    "masking": MaskingConfig,
    "objective": ObjectiveConfig,
    "data": DataConfig,
    "optim": OptimConfig,
    "run": RunConfig,
}
SETTINGS = (*SECTIONS, "init_video", "init_text")

# What the command does when it is told nothing: minutes on a laptop, not the paper's recipe.
LAPTOP_RECIPE: dict[str, Any] = {
    **{f"model.{name}": value for name, value in PRESETS["tiny"].items()},
    # Eight by eight tubes, so that an object covers several; eight frames over two seconds.
    "model.num_frames": 8,
    "model.patch_size": 8,
    "model.decoder_depth": 2,
    "masking.video_ratio": 0.75,
    "objective.match_text": "clean",
    "data.crop_scales": (1.0,),
    # Many small steps: at this length their number counts for more than what each one sees.
    "optim.lr_per_256": 16e-3,
    "optim.min_lr_per_256": 16e-5,
    "optim.warmup_epochs": 0.5,
    "run.epochs": 3,
    "run.batch_size": 16,
}


# From random weights a small model learns to fill tubelets in far sooner with these two; the
# encoders of others know neither.
FROM_SCRATCH: dict[str, Any] = {
    "model.video_input": "pixels and contrast",
    "model.video_positions": "axes",
}


def build_parser(arguments: Sequence[str] = ()) -> SettingsParser:
    """Command line of the job; what begins with other weights has other defaults."""
    begins = any(argument.partition("=")[0] == "--init-video" for argument in arguments)
    parser = settings_parser(
        PROGRAM,
        description=__doc__ or "",
        sections=SECTIONS,
        defaults=LAPTOP_RECIPE if begins else LAPTOP_RECIPE | FROM_SCRATCH,
    )
    for modality in ("video", "text"):
        parser.add_argument(
            f"--init-{modality}",
            type=str | None,
            default=None,
            help=f"file or folder with the {modality} weights to begin with, as for convert",
        )
    add_resume(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job; returns the exit code: 0 done or asked to stop, 1 failed, 2 bad settings."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = build_parser(arguments)
    parsed = parse_job(parser, arguments, kept=("data.tokenizer", "init_video", "init_text"))

    def job(stop: StopRequest, console: Console) -> None:
        config = PretrainConfig(**{name: getattr(parsed, name) for name in SETTINGS})
        done = pretrain(config, resume=parsed.resume, stop=stop, console=console)
        if done.model is not None:
            print_next_steps(console, config, data=done.data)

    return run_job(
        job, program=PROGRAM, out=Path(parsed.run.out), debug=parsed.debug, quiet=parsed.quiet
    )
