"""Options that were once called otherwise: taken as before, and told what they are called now."""

import importlib

import pytest

from simvtp.command_line import CommandParser, command_parser
from simvtp.pipelines.console import COMMANDS

FORMER = {
    "evaluate": {"--data.root": "root", "--data.split": "split", "--data.missing": "missing"},
    "visualize": {"--data.root": "root"},
    "predict": {"--videos": "data"},
    "prepare": {"--num-processes": "workers"},
    "index": {"--videos": "data"},
}


@pytest.mark.parametrize("name", FORMER)
@pytest.mark.parametrize("is_joined", [True, False])
def test_a_former_name_works_and_says_so_once(name, is_joined, capsys):
    parser = importlib.import_module(COMMANDS[name].parser).build_parser()
    assert isinstance(parser, CommandParser)
    needed = ["--data=d"] if name == "prepare" else ["--model=m"]
    for former, now in FORMER[name].items():
        value = {"missing": "leave out", "workers": "3"}.get(now, "there")
        words = [f"{former}={value}"] if is_joined else [former, value]
        options = parser.parse_args([*needed, *words])
        assert str(getattr(options, now)) == value
        assert capsys.readouterr().err == f"note: {former} is now --{now}\n"
    assert set(parser.renamed) == set(FORMER[name])


def test_values_and_unknown_options_are_left_alone(capsys):
    parser = command_parser("x", description=None, renamed={"--old": "--new"})
    parser.add_argument("--new")
    assert parser.parse_args(["--new=--old"]).new == "--old"
    assert capsys.readouterr().err == ""
    with pytest.raises(SystemExit):
        parser.parse_args(["--olds=1"])
