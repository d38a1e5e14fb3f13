"""Command lines made from the settings dataclasses, with YAML files and helpful refusals."""

import difflib
import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from operator import attrgetter
from pathlib import Path
from typing import Any, NoReturn

import yaml
from jsonargparse import ArgumentParser, Namespace

from simvtp.data.places import Command, named_place
from simvtp.files import write_whole
from simvtp.pipelines import bounded_yaml
from simvtp.printing import add_verbosity, printable


class SettingsParser(ArgumentParser):
    """Parser that names the nearest known setting when it meets an unknown one."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the reason on one line, then how to get help; exit code 2."""
        settings = self.get_defaults(skip_validation=True).as_dict()
        known = [
            f"{a}.{b}" for a, group in settings.items() if isinstance(group, dict) for b in group
        ]
        sys.stderr.write(f"{self.prog}: {printable(' '.join(message.split()))}\n")
        for word in _unknown_names(message, [*known, *settings]):
            near = _nearest(word, known)
            if near is not None:
                sys.stderr.write(f"unknown setting {word}: did you mean {near}?\n")
        sys.stderr.write(f"{self.prog} --help lists all settings\n")
        raise SystemExit(2)


def _unknown_names(message: str, known: Sequence[str]) -> list[str]:
    quoted = re.findall(r"[Kk]ey ['\"]([\w.]+)['\"]", message)
    options = re.findall(r"--([\w.]+)", message)
    if re.search("nrecognized|not expected|not accepted|does not accept", message):
        quoted += re.findall(r"['\"]([\w.]+)['\"]", message)
        return [name for name in dict.fromkeys([*options, *quoted]) if name not in known]
    return []


def _nearest(word: str, known: Sequence[str]) -> str | None:
    """The known setting that a wrong name most likely means; its section counts if it is right."""
    section, _, name = word.rpartition(".")
    names = {key.rpartition(".")[2]: key for key in known}
    if name in names:
        return names[name]
    meant = difflib.get_close_matches(section, {key.partition(".")[0] for key in known}, n=1)
    if meant:
        names = {name: key for name, key in names.items() if key.startswith(f"{meant[0]}.")}
    begun = [other for other in names if other.startswith(name)]
    near = [*begun, *difflib.get_close_matches(name, names, n=1)]
    return names[near[0]] if near else None


def settings_parser(
    program: str,
    *,
    description: str,
    sections: Mapping[str, type],
    defaults: Mapping[str, Any] | None = None,
) -> SettingsParser:
    """Parser with `--config FILE`, `--print_config` and one group of options per section.

    Args:
        program: what the user typed, for the messages.
        description: first lines of the help.
        sections: settings dataclass of each section, by the section's name.
        defaults: values by dotted name in place of the dataclasses' own.
    """
    parser = SettingsParser(
        prog=program, description=description, allow_abbrev=False, parser_mode=bounded_yaml.MODE
    )
    parser.add_argument("--config", action="config", help="YAML file with any of the settings")
    for name, section in sections.items():
        parser.add_argument(f"--{name}", type=section, default=section())
    if defaults:
        parser.set_defaults(dict(defaults))
    add_verbosity(parser)
    return parser


def parse_settings(parser: SettingsParser, arguments: Sequence[str] | None) -> Namespace:
    """Parse and build the dataclasses; a value they refuse ends the program with their reason."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        parsed = parser.parse_args(arguments)
    except OverflowError as error:
        parser.error(f"a number is too large: {error}")
    except UnicodeDecodeError as error:
        parser.error(f"a settings file must be UTF-8 text: {error}")
    _require_typed_commands(parser, parsed, arguments)
    for name, section in parser.get_defaults(skip_validation=True).as_dict().items():
        if isinstance(section, dict) and not isinstance(parsed[name], Namespace):
            parser.error(f"{name} is a section of settings, got {parsed[name]!r}")
    try:
        return parser.instantiate(parsed)
    except ValueError as error:
        parser.error(str(error))


def _require_typed_commands(
    parser: SettingsParser, parsed: Namespace, arguments: Sequence[str]
) -> None:
    """Refuse a command that a settings file holds: only what is typed is run."""
    for name, value in vars(parsed.as_flat()).items():
        commands = (text for text in _texts(value) if isinstance(named_place(text), Command))
        for command in commands:
            if not any(command in _typed(argument) for argument in arguments):
                again = command if isinstance(value, str) else "[{path: ...}, ...]"
                parser.error(
                    f"{name} has a command from a settings file, {command}, and only a command "
                    f"that is typed is run; where you trust it, type it too: --{name} "
                    f"{shlex.quote(again)}"
                )


def _typed(argument: str) -> list[str]:
    """Texts that an argument may stand for: a value, with its option or alone, or a list's."""
    values = [argument, *argument.split("=", 1)[1:]]
    for value in tuple(values):
        with suppress(yaml.YAMLError):
            values += _texts(bounded_yaml.load_yaml(value))
    return values


def _texts(value: Any) -> Iterator[str]:
    """All texts in a value, which may be a list of settings."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Namespace | Mapping):
        entries = vars(value) if isinstance(value, Namespace) else value
        for entry in entries.values():
            yield from _texts(entry)
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from _texts(entry)


def add_resume(parser: SettingsParser) -> None:
    """Let a job take `--resume`."""
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue the run in run.out with the settings it was started with",
    )


def _require_named(parser: SettingsParser, arguments: Sequence[str]) -> None:
    """Refuse `--data CLIPS`, as commands without settings have it; a YAML file is of settings."""
    for place, argument in enumerate(arguments):
        name, _, value = argument.partition("=")
        if name == "--data":
            value = value or next(iter(arguments[place + 1 :]), "CLIPS")
            if not value.endswith((".yaml", ".yml")):
                parser.error(f"here clips are named with --data.train: --data.train {value}")


def parse_job(
    parser: SettingsParser, arguments: Sequence[str], *, kept: Sequence[str] = ()
) -> Namespace:
    """Parse settings; with `--resume` those of the run that goes on, with changes to them.

    Args:
        parser: command line of the job.
        arguments: what the user typed.
        kept: names of what a run was made from, which no resume can change.
    """
    _require_named(parser, arguments)
    parsed = parse_settings(parser, arguments)
    if not parsed.resume:
        return parsed
    saved = Path(parsed.run.out) / "config.yaml"
    if not saved.is_file():
        parser.error(
            f"there is no run to resume: {saved} is missing; name it with --run.out, or leave "
            "--resume out if the run was stopped before it had begun"
        )
    resumed = parse_settings(parser, ["--config", str(saved), *arguments])
    settings = yaml.safe_load(saved.read_text("utf-8"))
    for name in kept:
        begun, now = _entry(settings, name), attrgetter(name)(resumed)
        if now != begun:
            parser.error(
                f"{name} is {now} but the run was begun with {begun}, which its folder keeps: "
                "leave it out on a resume, or start a new run"
            )
    return resumed


def _entry(settings: Any, name: str) -> Any:
    """A setting by its dotted name; None where there is none."""
    for part in name.split("."):
        settings = settings.get(part) if isinstance(settings, dict) else None
    return settings


def save_settings(settings: Mapping[str, Any], *, file: Path) -> None:
    """Write settings as YAML, in one step: half a file would be a run with other settings."""
    write_whole(file, yaml.safe_dump(_plain(settings), sort_keys=False))


def _plain(value: Any) -> Any:
    """Tuples as lists, which YAML files write without type tags."""
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, tuple | list) else value
