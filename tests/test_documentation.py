"""What README.md and docs/ show is run: blocks of Python, and commands as far as their options.

A comment `<!-- not run: reason -->` before a block leaves it out.
"""

import argparse
import importlib
import re
import runpy
import shlex
import shutil
import sqlite3
import sys
import tomllib
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partialmethod
from pathlib import Path
from typing import Any, NamedTuple

import jsonargparse
import pytest
import torch

from simvtp import SimVTP
from simvtp.config import PRESETS, ModelConfig
from simvtp.data import load_manifest, train_tokenizer
from simvtp.data.corpus.rendering import render_corpus
from simvtp.layers import PackedLayout
from simvtp.pipelines.console import COMMANDS
from simvtp.step_tokens import StepTokens, TokenPart
from simvtp.tasks import VideoClassifier

ROOT = Path(__file__).parents[1]
DOCUMENTS = ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
TINY = {
    **{"image_size": 32, "patch_size": 16, "num_frames": 4, "max_text_length": 16},
    **{"width": 32, "depth": 1, "num_heads": 2},
    **{"decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2, "text_dropout": 0.0},
}
_BLOCK = re.compile(
    r"^(?:<!-- not run: (?P<reason>.+?) -->\n+)?```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


class Block(NamedTuple):
    """A fenced block, the line it begins at, and why it is not run."""

    language: str
    text: str
    line: int
    reason: str | None


def blocks_of(document: str) -> list[Block]:
    text = (ROOT / document).read_text("utf-8")
    return [
        Block(
            found["language"],
            found["text"],
            text.count("\n", 0, found.start("text")) + 1,
            found["reason"],
        )
        for found in _BLOCK.finditer(text)
    ]


# --- Python ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Captioned clips under the names that the documents use."""
    folder = tmp_path_factory.mktemp("documents")
    corpus = render_corpus(
        folder / "cache", num_train=16, num_validation=6, size=32, num_processes=1, progress=False
    )
    shutil.copytree(corpus.root, folder / "CLIPS")
    for name in ("clips.csv", "train.csv"):
        shutil.copy(corpus.train, folder / name)
    shutil.copy(corpus.validation, folder / "held_out.csv")
    (folder / "videos").mkdir()
    videos = sorted((folder / "CLIPS").rglob("*.mp4"))
    for name, video in zip(
        ("one.mp4", "two.mp4", "three.gif", "videos/a.mp4"), videos, strict=False
    ):
        shutil.copy(video, folder / name)
    shutil.rmtree(folder / "cache")
    return folder


def tiny_model(folder: Path) -> SimVTP:
    captions = load_manifest(folder / "clips.csv", root=folder / "CLIPS").captions()
    tokenizer = train_tokenizer(captions, vocab_size=200)
    config = ModelConfig(**TINY, vocab_size=tokenizer.get_vocab_size())
    return SimVTP.from_config(config, tokenizer=tokenizer).eval()


def give_model_and_index(folder: Path) -> dict[str, Any]:
    from simvtp.pipelines import embed

    class Index:
        def add(self, ids, views, features):
            assert features.shape == (len(ids), TINY["width"])

    model = tiny_model(folder)
    model.save_pretrained(folder / "model")
    arguments = ["--model=model", "--data=clips.csv", "--root=CLIPS", "--out=features.parquet"]
    assert embed.main(arguments) == 0
    return {"model": model, "index": Index()}


def give_classifier(folder: Path) -> dict[str, Any]:
    classifier = VideoClassifier.from_model(tiny_model(folder), classes=["a dog", "a cat"])
    classifier.save_pretrained(folder / "runs" / "finetune" / "model")
    return {}


def give_tokens(folder: Path) -> dict[str, Any]:
    parts, first = {}, 0
    for name, lengths in (("video", (8, 8)), ("masked", (3, 5)), ("sound", (2, 2))):
        parts[name] = TokenPart(PackedLayout(lengths, torch.device("cpu")), first, first)
        first += sum(lengths)
    return {"tokens": StepTokens(torch.rand(first, 4), parts), "numbers": torch.tensor([1, 0])}


def give_weights(folder: Path) -> dict[str, Any]:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = transformers.Dinov2Config(**sizes, image_size=28, patch_size=14)
    transformers.Dinov2Model(vision).save_pretrained(folder / "dinov2-small")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "ball"]
    text = transformers.BertConfig(**sizes, vocab_size=len(words))
    transformers.BertModel(text).save_pretrained(folder / "minilm")
    (folder / "minilm" / "vocab.txt").write_text("\n".join(words))
    return {}


def give_exported_folder(folder: Path) -> dict[str, Any]:
    from export import onnx

    tiny_model(folder).save_pretrained(folder / "model")
    sizes = ["--batch", "1", "1", "2", "--tokens", "3", "8", "16", "--no-latency"]
    assert onnx.main(["--model", "model", "--out", "DIR", *sizes]) == 0
    return {"frames": torch.zeros(2, 4, 3, 32, 32, dtype=torch.uint8).numpy()}


def give_database(folder: Path) -> dict[str, Any]:
    with closing(sqlite3.connect(folder / "clips.sqlite")) as base:
        base.execute("create table clips (id integer, said text, video blob)")
        for number, clip in enumerate(load_manifest(folder / "clips.csv", root=folder / "CLIPS")):
            row = (number, clip.captions[0], Path(str(clip.path)).read_bytes())
            base.execute("insert into clips values (?, ?, ?)", row)
        base.commit()
    return {}


# Names that a document takes as there, and the files it reads beside the clips.
GIVEN: dict[str, Callable[[Path], dict[str, Any]]] = {
    "docs/conversion.md": give_weights,
    "docs/embed.md": give_model_and_index,
    "docs/modalities.md": give_tokens,
    "docs/own_parts.md": give_database,
    "docs/python.md": give_classifier,
    "docs/serving.md": give_exported_folder,
}
LONG = {"docs/own_parts.md", "docs/serving.md"}
WITH_PYTHON = [
    pytest.param(name, marks=pytest.mark.slow) if name in LONG else name
    for name in DOCUMENTS
    if any(block.language == "python" and not block.reason for block in blocks_of(name))
]


@pytest.mark.parametrize("document", WITH_PYTHON)
def test_python_runs_from_the_first_block_to_the_last(document, clips, tmp_path, monkeypatch):
    place = tmp_path / "place"
    shutil.copytree(clips, place)
    monkeypatch.chdir(place)
    for name in PRESETS:
        monkeypatch.setitem(PRESETS, name, TINY)
    names: dict[str, Any] = {"__name__": document}
    names |= GIVEN.get(document, lambda folder: {})(place)
    for block in blocks_of(document):
        if block.language == "python" and block.reason is None:
            # So that a traceback names the line of the document.
            source = "\n" * (block.line - 1) + block.text
            exec(compile(source, str(ROOT / document), "exec"), names)


# --- Commands -------------------------------------------------------------------------------------

_OPERATORS = "&|;()"
_OURS = ("simvtp", "export", "benchmarks")
# Programs that are not the library's, and their options that the text speaks of.
_OTHERS = {"cd", "curl", "docker", "git", "mkdocs", "pip", "pytest", "python", "sleep"}
_OTHERS |= {"ray", "source", "srun"}
_OTHERS_OPTIONS = {"--model-repository", "--no-deps", "--nproc-per-node"}
_OTHERS_OPTIONS |= {"--dist", "--signals-to-handle", "--requeue", "--index-url"}
_OTHERS_OPTIONS |= {"--disable-usage-stats"}


class Parsed(BaseException):
    """A command line was taken; nothing of the command is run."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self.options = set(parser._option_string_actions)


def commands_in(text: str) -> Iterator[list[str]]:
    """Words of each command, without variables that are set for it."""
    pending = ""
    for line in text.replace("\\\n", " ").splitlines():
        pending += f"{line}\n"
        lexer = shlex.shlex(pending, posix=True, punctuation_chars=_OPERATORS)
        lexer.whitespace_split = True
        try:
            words = [*lexer, ";"]
        except ValueError:  # A quotation that goes on in the next line.
            continue
        pending = ""
        command: list[str] = []
        for word in words:
            if set(word) <= set(_OPERATORS):
                if command:
                    yield command
                command = []
            elif command or not re.fullmatch(r"\w+=.*", word):
                command.append(word)


def commands_of(document: str) -> Iterator[tuple[list[str], bool]]:
    """Commands of a document's blocks, and those between backticks, which may be in part."""
    for block in blocks_of(document):
        if block.language in ("", "bash", "sh", "console") and block.reason is None:
            for command in commands_in(block.text):
                if block.language or command[0] in _OTHERS:
                    yield command, True
    text = _BLOCK.sub("", (ROOT / document).read_text("utf-8"))
    for found in re.finditer(r"`((?:python -m|torchrun|simvtp) [^`…]+)`", text):
        for command in commands_in(found[1].replace("\n", " ").replace("...", "")):
            yield command, False


@pytest.fixture
def parse(monkeypatch):
    """Run a module or file of the library up to the end of its parser."""
    asks_for_all = True

    def parse_only(parser, *arguments, original, **options):
        for part in (*parser._actions, *parser._mutually_exclusive_groups):
            part.required = part.required and asks_for_all
        parsed = original(parser, *arguments, **options)
        if isinstance(parser, jsonargparse.ArgumentParser):
            parser.instantiate(parsed)
        raise Parsed(parser)

    def run(name, arguments=(), *, whole=False):
        nonlocal asks_for_all
        asks_for_all = whole
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        try:
            if name.endswith(".py"):
                runpy.run_path(name, run_name="__main__")
            else:
                importlib.import_module(name).main()
        except Parsed as parsed:
            return parsed.options
        raise AssertionError(f"{name} takes no options")

    for kind in (argparse.ArgumentParser, jsonargparse.ArgumentParser):
        patched = partialmethod(parse_only, original=kind.parse_args)
        monkeypatch.setattr(kind, "parse_args", patched)
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("COLUMNS", "200")
    return run


def target_of(command: list[str]) -> tuple[str, list[str]] | None:
    """Module or file of the library that a command runs, and its arguments."""
    if "-m" in command:
        name, *arguments = command[command.index("-m") + 1 :]
        return (name, arguments) if name.partition(".")[0] in _OURS else None
    program = Path(command[0]).name
    if program == "simvtp":
        length = 2 if command[1] == "export" else 1
        name, arguments = " ".join(command[1 : length + 1]), command[length + 1 :]
        return None if name == "completion" else (COMMANDS[name].module, arguments)
    assert program in _OTHERS, f"{program}: do users have such a program?"
    return (command[1], command[2:]) if program == "python" else None


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_take_the_options_they_are_shown_with(document, parse, capsys):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    for command, whole in commands_of(document):
        if (target := target_of(command)) is not None:
            try:
                parse(*target, whole=whole)
            except SystemExit:
                pytest.fail(f"{shlex.join(command)}\nis refused: {capsys.readouterr().err}")
        for word in command:
            found = re.fullmatch(r"(?:\.|simvtp)\[(.+)\]", word)
            extras = set() if found is None else set(found[1].split(","))
            assert extras <= set(project["optional-dependencies"]), command


def test_options_that_the_text_speaks_of_are_known(parse):
    names = [command.module for command in COMMANDS.values()]
    names += [
        f"benchmarks.{path.stem}"
        for path in (ROOT / "benchmarks").glob("*.py")
        if "ArgumentParser(" in path.read_text("utf-8")
    ]
    names += [f"examples/triton/{path.name}" for path in (ROOT / "examples/triton").glob("*.py")]
    known = _OTHERS_OPTIONS.union(*(parse(name) for name in names))
    unknown = set()
    for document in DOCUMENTS:
        text = _BLOCK.sub("", (ROOT / document).read_text("utf-8"))
        for code in re.findall(r"`([^`]+)`", text):
            spoken = re.findall(r"(?:^|\s)(--[a-z][\w.-]*\w)(?![\w{*])", code)
            unknown |= {f"{document}: {option}" for option in {*spoken} - known}
    assert not unknown
