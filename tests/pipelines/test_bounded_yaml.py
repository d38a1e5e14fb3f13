"""YAML files of settings that are small to look at and enormous to build."""

import re
import time

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from jsonargparse import get_loader

from simvtp.pipelines.arguments import parse_settings
from simvtp.pipelines.bounded_yaml import load_yaml
from simvtp.pipelines.pretrain import command as pretrain

LEVELS = "\n".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
BOMB = f"a: &a [0, 0, 0, 0, 0, 0, 0, 0, 0, 0]\n{LEVELS}\ndata:\n  crop_scales: *i\n"
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "stands for more than 10,000 values"),
        ("a: &a\n  <<: *a\n", r"has an alias \*a to nothing before it, or to what holds it"),
        ("a: &a [*a]", r"alias \*a"),
        ("a: *b\nc: &b 1", r"alias \*b"),
        ("[" * 900, "is nested more than 50 deep"),
        ("[" * 100_000, "nested|nesting"),  # libyaml has a limit of its own.
        ("{a: " * 60 + "1" + "}" * 60, "is nested more than 50 deep"),
        ("# long\n" * 200_000, "has 1,400,000 characters"),
        (f"a: [{'1, ' * 20_000}]", "stands for more than"),
        (f"run: {{epochs: {'9' * 50_000}}}", "integer string conversion"),
    ],
    ids=[
        "bomb",
        "merged into itself",
        "in itself",
        "unknown",
        "deep",
        "deeper",
        "maps",
        "long",
        "many",
        "digits",
    ],
)
def test_it_is_refused_at_once(tmp_path, capsys, text, message):
    file = tmp_path / "settings.yaml"
    file.write_text(text)
    started = time.monotonic()
    with pytest.raises(yaml.YAMLError, match=message):
        load_yaml(text)
    with pytest.raises(SystemExit) as ended:
        pretrain.main(["--config", str(file)])
    assert time.monotonic() - started < 60
    assert ended.value.code == 2
    assert re.search(message, capsys.readouterr().err)


def test_anchors_may_be_used(tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text("model: {width: &width 256, decoder_width: *width, num_heads: 4}\n")
    parsed = parse_settings(pretrain.build_parser(), ["--config", str(file)])
    assert (parsed.model.width, parsed.model.decoder_width) == (256, 256)


@given(VALUES)
def test_everything_else_is_read_as_before(value):
    text = yaml.safe_dump({"key": value, "again": [value, value]})
    assert load_yaml(text) == get_loader("yaml")(text)


def test_a_file_that_is_no_text_is_refused(tmp_path, capsys):
    file = tmp_path / "settings.yaml"
    file.write_bytes(b"run:\n  epochs: \xff\n")
    with pytest.raises(SystemExit) as ended:
        pretrain.main(["--config", str(file)])
    assert ended.value.code == 2
    assert "a settings file must be UTF-8 text" in capsys.readouterr().err
