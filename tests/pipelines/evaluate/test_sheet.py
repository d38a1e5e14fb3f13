"""The sheet of queries: the right ones, with the right clips."""

import base64
import io
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from simvtp import SimVTP
from simvtp.config import DEFAULT_SPACING
from simvtp.data import ViewDataset, load_manifest
from simvtp.retrieval.gallery import embed_gallery
from simvtp.retrieval.sheet import SheetClip, select_queries
from simvtp.retrieval.sheet_files import _title


class Page(HTMLParser):
    """Sections of a sheet: captions, ranks and clips as they are read off the page."""

    def __init__(self, text):
        super().__init__()
        self.sections, self.tags, self.inside, self.images = {}, [], None, []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.tags.append(tag)
        self.inside = tag
        if tag == "section":
            self.queries = self.sections.setdefault(values["id"], [])
        elif tag == "article":
            self.queries.append({"clips": []})
        elif tag == "figure":
            self.queries[-1]["clips"].append({"own": values.get("class") == "own"})
        elif tag == "img":
            data = base64.b64decode(values["src"].removeprefix("data:image/jpeg;base64,"))
            image = np.asarray(Image.open(io.BytesIO(data))).astype(int)
            self.queries[-1]["clips"][-1]["frames"] = image

    def handle_endtag(self, tag):
        self.inside = None

    def handle_data(self, data):
        if self.inside == "h3":
            self.queries[-1]["caption"] = data
        elif self.inside == "p" and self.sections:
            self.queries[-1]["rank"] = float(data.removeprefix("own clip at rank "))
        elif self.inside == "figcaption":
            label, _, rest = data.partition(": ")
            name, _, score = rest.rpartition(", ")
            self.queries[-1]["clips"][-1] |= {"label": label, "name": name, "score": float(score)}


def test_the_sheet_shows_the_right_clips(evaluated, model_folder, captioned, tmp_path):
    out = tmp_path / "new" / "sheet.html"
    figures = evaluated(captioned, f"--sheet={out}")
    page = Page(out.read_text("utf-8"))
    assert "script" not in page.tags
    model, records = SimVTP.from_pretrained(model_folder), load_manifest(captioned)
    gallery = embed_gallery(model, records)
    cosine = gallery.text @ gallery.video.T
    ranks = figures["ranks"]["cosine"]["text_to_video"]
    shown = [query for queries in page.sections.values() for query in queries]
    assert set(page.sections) == {"best", "worst", "most-confused"}
    assert len({query["caption"] for query in shown}) == len(shown) == 12
    assert page.sections["best"][0]["rank"] == min(ranks)
    assert page.sections["worst"][0]["rank"] == max(ranks)
    dataset = ViewDataset(records, num_frames=4, spacing=DEFAULT_SPACING, image_size=16)
    for query in shown:
        number = gallery.captions.index(query["caption"])
        assert query["rank"] == pytest.approx(ranks[number])
        best = sorted(range(6), key=lambda clip: -cosine[number, clip])[:3]
        assert [clip["label"].split(",")[0] for clip in query["clips"]] == [
            "own clip",
            "retrieved 1",
            "retrieved 2",
            "retrieved 3",
        ]
        for clip, place in zip(query["clips"], [number // 2, *best], strict=True):
            assert clip["name"] == f"clip{place}"
            assert clip["own"] == (place == number // 2)
            assert clip["score"] == pytest.approx(cosine[number, place].item(), abs=6e-4)
            frames = [Image.fromarray(f.permute(1, 2, 0).numpy()) for f in dataset[place].video[0]]
            enlarged = [np.asarray(frame.resize((112, 112))) for frame in frames]
            assert np.abs(clip["frames"] - np.concatenate(enlarged, axis=1)).mean() < 4


def test_the_sheet_as_a_picture(evaluated, captioned, tmp_path):
    out = tmp_path / "sheet.png"
    evaluated(captioned, f"--sheet={out}")
    with Image.open(out) as picture:
        width, height = picture.size
        colours = picture.convert("RGB").getcolors(1_000_000)
    assert width == 1440
    # Versions of matplotlib round a half of a pixel differently.
    assert abs(height - 100 * (1.65 * 12 + 0.5)) <= 1
    assert len(colours) > 200


@pytest.mark.parametrize("name", ["a", "lavila_mixkit-chef-preparing-a-sauce-in-a-blender-43034"])
def test_a_long_name_does_not_hide_the_score(name):
    clip = SheetClip(name, 0.8125, True, np.zeros((1, 1, 3), np.uint8))
    title = _title(clip, "retrieved 1")
    assert title.startswith(f"retrieved 1, own: {name[:10]}")
    assert title.endswith(", 0.812")
    assert len(title) <= 46


@st.composite
def retrieved(draw):
    num_clips = draw(st.integers(1, 5))
    owners = draw(st.lists(st.integers(0, num_clips - 1), min_size=1, max_size=12))
    values = st.sampled_from([0.0, 0.1, 0.25, 0.5])
    row = st.lists(values, min_size=num_clips, max_size=num_clips)
    return [draw(row) for _ in owners], owners, draw(st.integers(1, 4))


@given(retrieved())
def test_queries_are_chosen_by_rank_and_margin(case):
    rows, owners, count = case
    own = torch.tensor(owners)[:, None] == torch.arange(len(rows[0]))
    similarity = torch.tensor(rows)
    rank = evaluate_ranks(rows, owners)
    chosen = select_queries(
        similarity, owners=own.int().argmax(1), rank=torch.tensor(rank), count=count
    )
    left = list(range(len(owners)))

    def margin(query):
        others = [s for clip, s in enumerate(rows[query]) if clip != owners[query]]
        return rows[query][owners[query]] - max(others, default=-torch.inf)

    keys = {
        "best": lambda query: (rank[query], -margin(query)),
        "worst": lambda query: (-rank[query], margin(query)),
        "most confused": lambda query: abs(margin(query)),
    }
    for name, key in keys.items():
        expected = {}
        for query in sorted(left, key=key):
            if len(expected) < count:
                expected.setdefault(owners[query], query)
        assert chosen[name] == list(expected.values())
        left = [query for query in left if query not in chosen[name]]


def evaluate_ranks(rows, owners):
    """Ranks with ties averaged, by counting."""
    return [
        1 + sum(s > row[own] for s in row) + (sum(s == row[own] for s in row) - 1) / 2
        for row, own in zip(rows, owners, strict=True)
    ]
