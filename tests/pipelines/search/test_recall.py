"""Searching finds as many of the held-out clips among others as evaluation says."""

import json
from pathlib import Path

import pytest
import torch

from simvtp.data.corpus.rendering import render_corpus
from simvtp.pipelines import evaluate
from simvtp.pipelines.search.demo import demo_index
from simvtp.pipelines.search.searcher import Searcher
from testing.by_hand import by_hand

LONG = (pytest.mark.slow, pytest.mark.timeout(1800))


@pytest.mark.parametrize(
    ("num_held_out", "num_others", "top"),
    [(8, 8, 3), (16, 112, 10), by_hand(256, 1744, 10, marks=LONG)],
)
def test_recall_is_that_of_evaluation(num_held_out, num_others, top, shapes, tmp_path):
    sizes = {"num_train": num_others, "num_validation": num_held_out}
    corpus = render_corpus(tmp_path / "corpus", num_processes=1, progress=False, **sizes)
    place = demo_index(corpus, shapes, num_others=num_others, num_workers=0)
    report = tmp_path / "figures.json"
    manifest = corpus.root / f"demo-{num_held_out + num_others}.csv"
    words = [f"--data={manifest}", f"--json={report}", "--bootstrap=0", "--workers=0"]
    assert evaluate.main(["--model=shapes", *words]) == 0
    ranks = json.loads(report.read_text())["ranks"]["cosine"]["text_to_video"][:num_held_out]
    searcher = Searcher.open(place)
    assert searcher.index.num_files == num_held_out + num_others
    found = [
        Path(str(record.path)).name
        in {
            Path(hit.file).name
            for hit in searcher.search(record.captions[0], top=top).hits
            if "validation" in hit.file
        }
        for record in corpus.validation_clips()
    ]
    assert found == [rank <= top for rank in ranks]
    recall = torch.tensor(found).double().mean().item()
    assert recall > 2 * top / (num_held_out + num_others)
