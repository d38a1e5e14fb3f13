"""What the command prints and writes, and what it refuses."""

import base64
import io
import json
import shutil
from html.parser import HTMLParser

import av
import pytest
from PIL import Image

from simvtp.data import probe
from simvtp.pipelines.search.command import main
from simvtp.pipelines.search.results import (
    clock,
    results_page,
    results_table,
    save_moments,
)
from simvtp.pipelines.search.searcher import Found
from simvtp.printing import Console
from simvtp.retrieval.html_page import as_html
from simvtp.retrieval.video_index import Hit, VideoIndex

HOSTILE = "<script>alert('x')</script>\x1b[2J\u202e&amp;\".mp4"


@pytest.fixture
def search(index_folder, capsys):
    def run(*words: str) -> str:
        assert main([f"--index={index_folder}", *words]) == 0
        return capsys.readouterr().out

    return run


@pytest.fixture
def refused(index_folder, capsys):
    def run(*words: str, index: object = index_folder) -> str:
        assert main([*([] if index is None else [f"--index={index}"]), *words]) == 2
        return " ".join(capsys.readouterr().out.split())

    return run


def read_json(text: str) -> list[dict]:
    return json.loads(text)["results"]


class Seen(HTMLParser):
    """Tags, pictures and texts of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.pictures: list[Image.Image] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "img":
            source = dict(attrs)["src"].removeprefix("data:image/jpeg;base64,")
            self.pictures.append(Image.open(io.BytesIO(base64.b64decode(source))))

    def handle_data(self, data):
        self.texts.append(data)


def test_a_table_tells_file_moment_and_score(search, searcher, captions):
    query = captions["000003.mp4"]
    lines = search(query, "--top=3").splitlines()
    hits = searcher.search(query, top=3).hits
    rows = [line for line in lines if ".mp4" in line]
    for rank, (row, hit) in enumerate(zip(rows, hits, strict=True), start=1):
        cells = [cell.strip() for cell in row.split("│")[1:-1]]
        assert cells[:4] == [str(rank), hit.file, "0:00 to 0:02", f"{hit.score:.3f}"]
    assert "3 of 12 moments in" in lines[-2]
    assert lines[-1].startswith("see them: --html FILE, --save DIR or --serve")


def test_json_is_all_that_was_found(search, searcher, captions, tmp_path):
    query = captions["000005.mp4"]
    printed = read_json(search(query, "--json=-", "--rerank=3", "--top=4"))
    found = searcher.search(query, rerank=3, top=4)
    assert [one["key"] for one in printed] == [hit.key for hit in found.hits]
    assert [one["rank"] for one in printed] == [1, 2, 3, 4]
    assert printed[0]["match"] == pytest.approx(found.matches[0], abs=1e-5)
    assert printed[3]["match"] is None
    file = tmp_path / "new" / "found.json"
    search(query, f"--json={file}", "--rerank=3", "--top=4")
    assert read_json(file.read_text()) == printed


def test_pictures_and_clips_are_queries(search, videos, tmp_path):
    with av.open(str(videos / "000002.mp4")) as container:
        next(container.decode(video=0)).to_image().save(tmp_path / "a.png")
    (first, *_) = read_json(search(f"--video={videos / '000002.mp4'}", "--json=-"))
    assert first["file"] == "000002.mp4"
    assert first["score"] == pytest.approx(1, abs=1e-4)
    assert read_json(search(f"--video={videos / '000002.mp4'}@0", "--json=-", "--top=1"))[0] == {
        **first,
        "score": pytest.approx(1, abs=1e-4),
    }
    assert len(read_json(search(f"--image={tmp_path / 'a.png'}", "--json=-"))) == 10


def test_conditions_and_words_in_captions(search, captions):
    query = captions["000004.mp4"]
    where = "--where=file < '000003' AND start < 1"
    assert {one["file"] for one in read_json(search(query, where, "--json=-"))} == {
        f"00000{number}.mp4" for number in range(3)
    }
    best, *_ = read_json(search(query, "--text-in-captions", "--exact", "--json=-"))
    assert best["file"] == "000004.mp4"


def test_a_page_holds_its_pictures(search, captions, tmp_path):
    file = tmp_path / "new" / "page.html"
    search(captions["000001.mp4"], f"--html={file}", "--top=5")
    page = Seen(file.read_text())
    assert captions["000001.mp4"] in page.texts
    assert len(page.pictures) == 5
    assert all(min(picture.size) >= 64 for picture in page.pictures)
    assert "script" not in page.tags


def test_moments_are_saved_as_clips(search, captions, videos, tmp_path):
    printed = search(captions["000001.mp4"], f"--save={tmp_path / 'clips'}", "--top=2")
    files = sorted((tmp_path / "clips").iterdir())
    assert [file.name[:4] for file in files] == ["001-", "002-"]
    for file in files:
        assert file.name.endswith("-0m00s.mp4")
        assert f"{file}: copied, without sound" in printed
        assert probe(file).num_frames == 32


def test_names_and_captions_are_text(tmp_path, searcher):
    thumbnail = io.BytesIO()
    Image.new("RGB", (80, 60)).save(thumbnail, "JPEG")
    hit = Hit(HOSTILE, 61.0, 3725.5, 0.5, HOSTILE, thumbnail.getvalue(), "key")
    found = Found((hit,), (0.25,))
    shown = "<script>alert('x')</script>\\x1b[2J\\u202e&amp;\".mp4"
    page = Seen(as_html(results_page(found, title=HOSTILE, told=HOSTILE)))
    assert "script" not in page.tags
    assert page.texts.count(shown) == 4
    assert f"1. {shown}, 1:01 to 1:02:05, score 0.500, match 0.25" in page.texts
    console = Console(record=True, width=300, file=io.StringIO())
    console.print(results_table(found, title=HOSTILE))
    assert console.export_text().count(shown) == 3
    (saved,) = save_moments(found, searcher.index, tmp_path / "clips")
    assert "there is no moment 'key'" in saved.reason


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.9, "0:59"), (61, "1:01"), (3600, "1:00:00")]
)
def test_times_are_minutes_and_seconds(seconds, text):
    assert clock(seconds) == text


def test_a_link_out_of_the_videos_is_not_cut(searcher, tmp_path):
    index = searcher.index
    (tmp_path / "000001.mp4").symlink_to(index.roots[0].parent / "elsewhere.mp4")
    index = VideoIndex.open(index.place, roots=[tmp_path])
    hits = index.search(text="a", top=20) or searcher.search("a red circle", top=12).hits
    (hit,) = (hit for hit in hits if hit.file == "000001.mp4")
    (saved,) = save_moments(Found((hit,), (None,)), index, tmp_path / "clips")
    assert saved.file is None
    assert "is not below" in saved.reason


def test_refusals(refused, videos, tmp_path):
    assert "the query is empty; write what the video shows" in refused("")
    assert "say what to look for: some words, --image FILE" in refused()
    assert "one thing at a time, got a QUERY and --image" in refused("a", "--image=b.png")
    assert "there is no such folder; make an index with" in refused("a", index=tmp_path / "x")
    assert "give --index INDEX, or --demo" in refused("a", index=None)
    assert "give --index INDEX, or --demo" in refused("a", "--demo")
    assert "nothing.mp4: there is no such file" in refused(f"--video={tmp_path / 'nothing.mp4'}")
    assert "is 2 s long, got 9" in refused(f"--video={videos / '000001.mp4'}@9")
    assert "'soon' is no time" in refused(f"--video={videos / '000001.mp4'}@soon")
    assert "where 'colour = 1' cannot be used" in refused("a", "--where=colour = 1")
    assert "--rerank goes with a query in words" in refused(
        "--rerank=3", f"--video={videos / '000001.mp4'}"
    )
    assert "leave out a QUERY, --html" in refused("a", "--serve", "--html=x.html")
    assert "'nobody/nothing' is neither a folder here" in refused("a", "--model=nobody/nothing")


def test_another_models_vectors_are_refused(refused, shapes, tmp_path):
    from simvtp import SimVTP

    other = SimVTP.from_pretrained("shapes")
    other.match_head.weight.data.zero_()
    other.save_pretrained(tmp_path / "other")
    said = refused("a", f"--model={tmp_path / 'other'}")
    assert "vectors are of the model shapes" in said
    assert "search with shapes, or index the videos anew" in said


def test_words_that_the_model_does_not_know_are_told(search):
    assert "note: the vocabulary lacks most words of '犬が走る': the scores" in search("犬が走る")


def test_an_index_from_elsewhere_opens_no_video_by_itself(index_folder, videos, tmp_path, capsys):
    moved = shutil.copytree(index_folder, tmp_path / "moved")
    words = [f"--index={moved}", "a red circle", "--top=1"]
    asked = [*words, "--model=shapes"]

    def said(expected, *more):
        assert main([*more]) == expected
        return " ".join(capsys.readouterr().out.split())

    assert "'shapes'; say where you have it with --model" in said(2, *words)
    assert "1 of 12 moments" in said(0, *asked)
    for option in ("--rerank=2", f"--save={tmp_path / 'clips'}"):
        assert "say where the videos are with --root DIR" in said(2, *asked, option)
        assert "1 of 12 moments" in said(0, *asked, option, f"--root={videos}")
    assert len(list((tmp_path / "clips").iterdir())) == 1
