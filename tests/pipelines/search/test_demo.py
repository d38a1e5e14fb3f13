"""The demo needs no data, and is indexed once."""

from functools import partial

import pytest

from simvtp.data.corpus.rendering import render_corpus
from simvtp.pipelines.index import main as index
from simvtp.pipelines.search import demo
from simvtp.pipelines.search.command import main


@pytest.fixture
def indexed(tmp_path, monkeypatch):
    """What was indexed while a small demo runs, in this process."""
    calls = []

    def noted(words):
        calls.append(words)
        return index([word.replace("--workers=1", "--workers=0") for word in words])

    sizes = {"num_train": 6, "num_validation": 3, "num_processes": 1, "progress": False}
    monkeypatch.setenv("SIMVTP_CACHE", str(tmp_path))
    monkeypatch.setattr(demo, "render_corpus", partial(render_corpus, **sizes))
    monkeypatch.setattr(demo, "_NUM_OTHERS", 4)
    monkeypatch.setattr(demo, "index", noted)
    return calls


def test_the_demo_is_indexed_once(indexed, capsys):
    for _ in range(2):
        assert main(["--demo", "a red circle moves left", "--top=3"]) == 0
        assert "3 of 7 moments" in capsys.readouterr().out
    assert len(indexed) == 1


def test_a_demo_that_was_stopped_goes_on(indexed, capsys, monkeypatch):
    monkeypatch.setattr(demo, "index", lambda words: 1)
    assert main(["--demo", "a red circle moves left"]) == 2
    assert "the demo was not indexed: mend what is said" in capsys.readouterr().out
    # Stopped by a signal, `index` ends in order.
    monkeypatch.setattr(demo, "index", lambda words: 0)
    monkeypatch.setattr(demo, "_NUM_OTHERS", 5)
    assert main(["--demo", "a red circle moves left"]) == 2
    assert "the demo is not indexed to its end" in capsys.readouterr().out


def test_a_demo_without_a_query_is_a_page(indexed, monkeypatch):
    from simvtp.pipelines.search import command

    served = []
    monkeypatch.setattr(command, "_serve", lambda searcher, options: served.append(searcher))
    assert main(["--demo"]) == 0
    assert served[0].name == "shapes"
    place = served[0].index.place
    assert served[0].index.num_files == 7
    assert demo.index_name(str(place)) == "demo"


def test_other_indexes_are_called_by_their_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SIMVTP_CACHE", str(tmp_path / "cache"))
    for place, name in (("demo-films", "demo-films"), ("/a/my films/", "my films"), ("/", "/")):
        assert demo.index_name(place) == name


def test_a_demo_that_is_stopped_says_it_once(indexed, capsys, monkeypatch):
    monkeypatch.setattr(demo, "index", lambda words: 130)
    assert main(["--demo", "a red circle moves left"]) == 130
    told = capsys.readouterr().out
    assert "stopped" in told
    assert "delete" not in told
