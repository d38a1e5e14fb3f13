"""Commands are run where they were typed, and what is printed to be pasted is quoted."""

import shlex
from pathlib import Path

import pytest

from simvtp.pipelines.arguments import parse_job, save_settings
from simvtp.pipelines.pretrain import build_parser
from simvtp.printing import Console
from simvtp.trainer.faults import failure_of_run
from simvtp.trainer.job import print_how_to_go_on

COMMAND = "pipe:cat clips.tar"
STRANGE = "runs/a b; touch ran $(touch ran) 'c'"


@pytest.mark.parametrize("name", ["train", "validation"])
def test_a_settings_file_holds_no_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
):
    parser = build_parser()
    settings = {"data": {"train": "clips.csv", name: COMMAND}, "run": {"out": str(tmp_path)}}
    save_settings(settings, file=tmp_path / "config.yaml")
    asked = ["--config", str(tmp_path / "config.yaml")]
    resumed = ["--run.out", str(tmp_path), "--resume"]
    for arguments in (asked, resumed):
        with pytest.raises(SystemExit):
            parse_job(parser, arguments)
        assert f"type it too: --data.{name} 'pipe:cat clips.tar'" in capsys.readouterr().err
        for typed in ([f"--data.{name}", COMMAND], [f"--data.{name}={COMMAND}"]):
            assert getattr(parse_job(parser, [*arguments, *typed]).data, name) == COMMAND


def test_what_is_to_be_pasted_is_quoted(capsys: pytest.CaptureFixture[str]):
    print_how_to_go_on(Console(soft_wrap=True), "python -m a", Path(STRANGE))
    told = capsys.readouterr().out.strip().removeprefix("continue: ")
    assert shlex.split(told) == ["python", "-m", "a", "--run.out", STRANGE]
    failed = str(failure_of_run(OSError("x"), step=1, out=STRANGE))
    assert shlex.split(failed.partition("go on with ")[2]) == ["--run.out", STRANGE, "--resume"]
