"""Text out of files does nothing on a screen, and there is one way to print it."""

import ast
import io
import sys
import time
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table

from simvtp import printing
from simvtp.printing import (
    Console,
    PlainColumn,
    Progress,
    counted,
    printable,
    printable_lines,
)

ROOT = Path(__file__).parents[1]
STRANGE = "[red]a[/red] [/b] :a: \x1b[2J\x9b2J\r\u202egpj.mp4 \udc80"
WRITTEN = r"[red]a[/red] [/b] :a: \x1b[2J\x9b2J\r\u202egpj.mp4 \udc80"


def shown(print_to) -> str:
    """What a console prints, on a terminal without colours."""
    stream = io.StringIO()
    print_to(Console(file=stream, width=200))
    return stream.getvalue()


@given(st.text(st.characters(codec=None)))
def test_what_is_printable_has_no_active_character(text: str):
    written = printable(text)
    assert not {unicodedata.category(letter) for letter in written} & {"Cc", "Cs", "Zl", "Zp"}
    bidirectional = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    assert not {unicodedata.bidirectional(letter) for letter in written} & bidirectional
    assert printable(written) == written
    assert printable_lines(text).count("\n") == text.count("\n")


@pytest.mark.parametrize(
    ("number", "told"),
    [
        *((0, "0 passes"), (1, "1 pass"), (1.0, "1 pass"), (0.5, "0.5 passes")),
        *((1.001, "1 pass"), (12_000, "12,000 passes"), (1 / 3, "0.333 passes")),
    ],
)
def test_one_is_no_plural(number, told: str):
    assert counted(number, "pass", "passes") == told
    assert counted(number, "clip") == told.replace("passes", "clips").replace("pass", "clip")


@pytest.mark.parametrize("text", ["Zwölf Boxkämpfer", "हिन्दी", "👩‍👩‍👧", "a:b [c]", "می‌خواهم"])
def test_what_people_write_stays(text: str):
    assert printable(text) == printable_lines(text) == text


def test_a_console_prints_what_stands_there():
    assert shown(lambda console: console.print(STRANGE)) == f"{WRITTEN}\n"
    table = Table(title=STRANGE)
    table.add_column(STRANGE)
    table.add_row(STRANGE)
    assert shown(lambda console: console.print(table)).count(WRITTEN) == 3


def test_a_bar_shows_what_stands_there():
    stream = io.StringIO()
    console = Console(file=stream, width=200, force_terminal=True, color_system=None)
    with Progress(PlainColumn("{task.description}"), console=console) as progress:
        progress.add_task(STRANGE)
    assert WRITTEN in stream.getvalue()


def bar_of(seconds: float, monkeypatch: pytest.MonkeyPatch, **options) -> list[str]:
    monkeypatch.setattr(printing, "_FIRST_LINE_SECONDS", 0.1)
    stream = io.StringIO()
    console = Console(file=stream, width=60, color_system=None, **options)
    with Progress("{task.description}", console=console, transient=True) as progress:
        progress.add_task("at work")
        time.sleep(seconds)
    return stream.getvalue().splitlines()


def test_a_log_hears_of_a_bar_at_growing_distances(monkeypatch: pytest.MonkeyPatch):
    # After 0.1, 0.3 and 0.7 seconds; rich looks ten times a second, and a busy machine later.
    lines = [line.strip() for line in bar_of(1.2, monkeypatch) if line.strip()]
    assert set(lines) == {"at work"}
    assert 1 <= len(lines) <= 3


def test_nothing_is_added_to_a_bar_that_is_seen_or_over_soon(monkeypatch: pytest.MonkeyPatch):
    assert bar_of(0, monkeypatch) == []
    seen = "".join(bar_of(0.5, monkeypatch, force_terminal=True))
    assert seen.count("\n") == 0


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_an_old_console_ends_nothing(encoding: str, monkeypatch: pytest.MonkeyPatch):
    data = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(data, encoding=encoding))
    table = Table()
    table.add_row("a cat 🐈 " * 30)
    console = Console(width=60)
    console.print("dog 🐕 …")
    console.print(table)
    sys.stdout.flush()
    assert rb"dog \U0001f415" in data.getvalue()


def _imports(tree: ast.AST) -> set[str]:
    return {
        f"{node.module}.{name.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for name in node.names
    }


def _calls(tree: ast.AST) -> set[str]:
    names = {node.func for node in ast.walk(tree) if isinstance(node, ast.Call)}
    return {name.id for name in names if isinstance(name, ast.Name)}


def test_there_is_one_way_to_print():
    folders = ("simvtp", "export", "benchmarks")
    files = [file for folder in folders for file in ROOT.glob(f"{folder}/**/*.py")]
    others = {"rich.console.Console", "rich.print", "rich.get_console", "rich.progress.Progress"}
    found = []
    for file in files:
        tree = ast.parse(file.read_text())
        if _imports(tree) & {*others, "rich.progress.TextColumn"} or "print" in _calls(tree):
            found.append(str(file.relative_to(ROOT)))
    # The benchmark's `print` is of JSON, from one of its processes to another.
    assert sorted(found) == ["benchmarks/manifest.py", "simvtp/printing.py"]
