"""Text on pictures; warnings, which matplotlib gives for each letter it lacks, are errors here."""

import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib import font_manager

from simvtp import lettering
from simvtp.lettering import lettered
from simvtp.pipelines.pictures import PictureRow, draw_reconstruction

ODD = "狗 🐕 ภาษา $x_{ $5 \ud83d tab\there\nline \x1b[31m ệ"


@given(st.text(st.characters(), max_size=20), st.sampled_from(["sans-serif", "monospace"]))
def test_every_letter_is_in_a_font_and_can_be_printed(text, family):
    line, style = lettered(text, family=family)
    fonts = [font_manager.FontProperties(family=[name]) for name in style["family"]]
    files = [font_manager.findfont(font) for font in fonts]
    known = {chr(code) for file in files for code in font_manager.get_font(file).get_charmap()}
    assert set(line) <= known | {" "}
    assert line.isprintable()
    if text.isascii() and text.isprintable():
        assert line == text


def test_letters_that_no_font_has_are_written_as_escapes(monkeypatch):
    monkeypatch.setattr(lettering, "_fonts", dict)
    assert lettered("a 狗\n🐕")[0] == r"a \u72d7 \U0001f415"


def test_other_fonts_of_the_machine_are_asked(monkeypatch):
    monkeypatch.setattr(lettering, "_fonts", lambda: {"Dogs": frozenset("狗ab")})
    text, style = lettered("a 狗🐕")
    assert (text, style["family"]) == (r"a 狗\U0001f415", ["sans-serif", "Dogs"])


@pytest.mark.parametrize("caption", [ODD, "$\\frac{$", "a" * 500])
def test_any_caption_is_drawn_without_a_warning(caption, tmp_path):
    clip = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    row = PictureRow(clip, clip, clip, caption, caption, caption)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_reconstruction([row], out_png=tmp_path / "picture.png", note="half hidden")


def test_lines_stay_lines():
    assert lettered("one\ntwo", "three")[0] == "one two\nthree"
