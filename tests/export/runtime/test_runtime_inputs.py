"""Captions and arrays as a runtime takes them, and what it refuses."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from export.runtime import Runtime
from export.runtime.captions import MAX_CHARACTERS, encode_captions, load_tokenizer
from simvtp.data.manifests.checks import MAX_CAPTION_CHARACTERS
from simvtp.data.tokenizer import encode_caption
from testing.export.small_export import CAPTIONS, clips

ROOT = Path(__file__).parents[3]
PLAIN = st.text(max_size=40)
NASTY = st.lists(
    st.sampled_from(
        ["[SEP]", "[MASK]", "[PAD", "[CLS]red", "ball", "##ing", "é", "中文", "x" * 120]
    ),
    max_size=20,
).map(" ".join)


class TestCaptions:
    @given(text=PLAIN | NASTY, max_length=st.integers(3, 20))
    @settings(max_examples=200)
    def test_ids_are_those_of_training(self, exported, exported_model, text, max_length):
        tokenizer = load_tokenizer(exported.path / "tokenizer.json")
        wanted = encode_caption(exported_model.tokenizer, text, max_length=max_length)
        ids = wanted.token_ids.tolist()
        if len(ids) < 3:
            with pytest.raises(ValueError, match="at least one word"):
                encode_captions(tokenizer, [text], max_length=max_length)
            return
        longer = "ball " * 30
        found = encode_captions(tokenizer, [text, longer], max_length=max_length)
        assert found.token_ids.dtype == found.attention_mask.dtype == np.int64
        assert found.token_ids.shape == (2, max_length)
        assert found.token_ids[0, found.attention_mask[0] == 1].tolist() == ids
        assert found.attention_mask[0].tolist() == [1] * len(ids) + [0] * (max_length - len(ids))
        assert found.token_ids[0, -1] in (0, tokenizer.token_to_id("[SEP]"))
        assert found.token_ids[1, -1] == tokenizer.token_to_id("[SEP]")

    def test_what_is_too_long_or_too_many_is_refused_before_any_work(self, exported, monkeypatch):
        assert MAX_CHARACTERS == MAX_CAPTION_CHARACTERS
        with Runtime(exported.path, threads=1) as runtime:
            longest = "word " * (MAX_CHARACTERS // 5)
            assert runtime.encode_text(longest).shape == (1, 32)
            monkeypatch.setattr(Runtime, "_tokenizer", None)
            for text in (["a", longest + "x"], (10**7 * "a",)):
                with pytest.raises(ValueError, match=r"may have 10000 characters, got 1000"):
                    runtime.encode_text(text)
            with pytest.raises(ValueError, match="batch must be from 1 to 4, got 100000; split it"):
                runtime.encode_text(["a"] * 100_000)

    def test_a_tokenizer_that_cuts_and_pads_is_freed_of_it(self, exported, tmp_path):
        values = json.loads((exported.path / "tokenizer.json").read_text("utf-8"))
        tokenizer = load_tokenizer(exported.path / "tokenizer.json")
        wanted = encode_captions(tokenizer, CAPTIONS, max_length=16)
        tokenizer.enable_truncation(4)
        tokenizer.enable_padding(length=40)
        tokenizer.save(str(tmp_path / "tokenizer.json"))
        changed = json.loads((tmp_path / "tokenizer.json").read_text("utf-8"))
        changed["post_processor"] = None
        assert changed["truncation"]
        assert values["truncation"] is None
        (tmp_path / "tokenizer.json").write_text(json.dumps(changed), "utf-8")
        found = encode_captions(
            load_tokenizer(tmp_path / "tokenizer.json"), CAPTIONS, max_length=16
        )
        assert np.array_equal(found.token_ids, wanted.token_ids)

    @pytest.mark.parametrize(
        ("caption", "reason"),
        [
            ("", "caption 1 must hold at least one word, got ''"),
            (" \t\n", "caption 1 must hold at least one word"),
            ("\ud800", "caption 1 is no valid Unicode text"),
            (None, "caption 1 must be a str, got NoneType"),
            (b"red", "caption 1 must be a str, got bytes"),
        ],
    )
    def test_what_is_no_caption(self, runtime, caption, reason):
        with pytest.raises(ValueError, match=reason):
            runtime.encode_text(["a red ball", caption])

    @pytest.mark.parametrize(("text", "reason"), [([], "at least one text"), (3, "got int")])
    def test_no_captions(self, runtime, text, reason):
        with pytest.raises(ValueError, match=reason):
            runtime.encode_text(text)

    @pytest.mark.parametrize(
        ("content", "reason"),
        [(None, "tokenizer.json is missing"), ("{", "not a tokenizer"), ("", "not a tokenizer")],
    )
    def test_bad_tokenizer(self, exported_copy, content, reason):
        file = exported_copy / "tokenizer.json"
        if content is None:
            file.unlink()
        else:
            file.write_text(content)
        with pytest.raises(ValueError, match=reason):
            Runtime(exported_copy).encode_text("a ball")

    def test_a_regular_expression_that_panics(self, exported_copy):
        file = exported_copy / "tokenizer.json"
        values = json.loads(file.read_text("utf-8"))
        regex = {"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated"}
        values["pre_tokenizer"] = {**regex, "invert": False}
        file.write_text(json.dumps(values), "utf-8")
        with pytest.raises(ValueError, match="not a tokenizer"):
            Runtime(exported_copy).encode_text("a ball")

    def test_a_tokenizer_without_special_tokens(self, exported_copy):
        file = exported_copy / "tokenizer.json"
        file.write_text(file.read_text("utf-8").replace("[SEP]", "[END]"), "utf-8")
        with pytest.raises(ValueError, match=r"lacks the special tokens \[SEP\]"):
            Runtime(exported_copy).encode_text("a ball")


class TestRefusals:
    """Nothing out of range reaches a session: `opened` would hold one."""

    @pytest.fixture
    def closed(self, exported):
        opened = Runtime(exported.path)
        yield opened
        assert not opened._sessions

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            (lambda f: f[:0], "batch must be from 1 to 4, got 0; there is nothing to run"),
            (lambda f: f.repeat(5, 0), "batch must be from 1 to 4, got 5; split .* at most 4"),
            (lambda f: f.astype(np.float32), "frames must be uint8, got float32; give pixels"),
            (lambda f: f[0], r"\(batch, 4, 3, 32, 32\), got 4 dimensions .* frames\[None\]"),
            (lambda f: f[:, :3], r"\(batch, 4, 3, 32, 32\), got \(1, 3, 3, 32, 32\); cut"),
            (lambda f: f.transpose(0, 1, 3, 4, 2), r"got \(1, 4, 32, 32, 3\)"),
            (lambda f: f[..., :16, :16], r"got \(1, 4, 3, 16, 16\)"),
            (lambda f: torch.from_numpy(f), "numpy array, got Tensor"),
            (lambda f: f.tolist(), "numpy array, got list"),
        ],
    )
    def test_frames(self, closed, exported_model, change, reason):
        frames = change(clips(exported_model, 1, 0))
        with pytest.raises(ValueError, match=reason):
            closed.encode_video(frames)
        with pytest.raises(ValueError, match=reason if "batch must" not in reason else "batch"):
            closed.match(frames, "a ball")

    @pytest.mark.parametrize(
        ("ids", "mask", "reason"),
        [
            ([[2, 3]], [[1, 1]], "tokens must be from 3 to 16, got 2"),
            ([[5] * 17], [[1] * 17], "tokens must be from 3 to 16, got 17; shorten"),
            ([[2, 6, 3]] * 5, [[1, 1, 1]] * 5, "batch must be from 1 to 4, got 5"),
            ([[2, 6, 3]], [[1, 1, 1, 0]], "tokens 3, attention_mask has 4; they must agree"),
            ([[2, 6, 3]], [[1, 1, 1]] * 2, "batch 1, attention_mask has 2"),
            ([[2, 6, 3]], [[1, 0, 1]], "padding on the right, row 0"),
            ([[2, 6, 3]] * 2, [[1, 1, 1], [0, 0, 0]], "row 1 begins with padding"),
            ([[2, 6, 3]], [[1, 1, 2]], "got 2"),
            ([[2, -1, 3]], [[1, 1, 1]], "got -1 to 3"),
            ([[2, 10**6, 3]], [[1, 1, 1]], "got 2 to 1000000"),
        ],
    )
    def test_token_ids(self, closed, ids, mask, reason):
        with pytest.raises(ValueError, match=reason):
            closed.encode_text((np.array(ids), np.array(mask)))

    def test_types_of_ids(self, closed):
        ids = np.array([[2, 6, 3]])
        with pytest.raises(ValueError, match=r"token_ids must be int64, got int32; .*astype"):
            closed.encode_text((ids.astype(np.int32), np.ones_like(ids)))
        with pytest.raises(ValueError, match="attention_mask must be int64, got bool"):
            closed.encode_text((ids, ids > 0))

    def test_pairs_must_be_as_many(self, closed, exported_model):
        with pytest.raises(ValueError, match="frames has batch 2, token_ids has 3; they must"):
            closed.match(clips(exported_model, 2, 0), ["a ball"] * 3)

    def test_unknown_graphs_and_inputs(self, closed):
        with pytest.raises(ValueError, match="no graph 'sound', only video, text, match"):
            closed.run("sound", {})
        with pytest.raises(ValueError, match="graph 'video' takes frames, got nothing"):
            closed.run("video", {})

    def test_tubelets_that_are_not_there(self, exported_copy, exported_model):
        report = json.loads((exported_copy / "report.json").read_text())
        graph = {**report["graphs"]["match"]}
        graph["inputs"] = [
            *graph["inputs"],
            {"name": "keep", "dtype": "int64", "shape": ["batch", "kept"]},
        ]
        graph["ranges"] = {**graph["ranges"], "kept": [1, 2, 8]}
        report["graphs"]["reconstruct"] = graph
        (exported_copy / "report.json").write_text(json.dumps(report))
        inputs = {"frames": clips(exported_model, 1, 0), "token_ids": np.array([[2, 6, 3]])}
        inputs["attention_mask"] = np.ones((1, 3), dtype=np.int64)
        with pytest.raises(ValueError, match="keep must be from 0 to 7, got 0 to 8; number"):
            Runtime(exported_copy).run("reconstruct", {**inputs, "keep": np.array([[0, 8]])})

    def test_captions_longer_than_the_graph_are_not_cut_silently(self, exported_copy):
        report = json.loads((exported_copy / "report.json").read_text())
        report["graphs"]["text"]["ranges"]["tokens"] = [3, 4, 5]
        (exported_copy / "report.json").write_text(json.dumps(report))
        with pytest.raises(ValueError, match="tokens must be from 3 to 5, got 16"):
            Runtime(exported_copy).encode_text("ball " * 20)
        assert Runtime(exported_copy).encode_text("ball").shape == (1, 32)

    def test_captions_shorter_than_the_graph_are_padded(self, exported_copy, runtime):
        report = json.loads((exported_copy / "report.json").read_text())
        report["graphs"]["text"]["ranges"]["tokens"] = [9, 9, 16]
        (exported_copy / "report.json").write_text(json.dumps(report))
        found = Runtime(exported_copy).encode_text("ball")
        assert np.abs(found - runtime.encode_text("ball")).max() < 1e-5
