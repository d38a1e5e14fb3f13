from pathlib import Path

import pytest

from simvtp import SimVTP
from simvtp.data.corpus.rendering import render_corpus
from simvtp.pipelines.index import main as index
from simvtp.pipelines.search import Searcher

NUM_CLIPS = 12


@pytest.fixture(scope="session")
def shapes() -> SimVTP:
    return SimVTP.from_pretrained("shapes")


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Held-out clips of the embedded corpus, with their captions in files beside them."""
    corpus = render_corpus(
        tmp_path_factory.mktemp("corpus"),
        num_train=1,
        num_validation=NUM_CLIPS,
        num_processes=1,
        progress=False,
    )
    for record in corpus.validation_clips():
        Path(str(record.path)).with_suffix(".txt").write_text(record.captions[0])
    return corpus.root / "validation"


@pytest.fixture(scope="session")
def captions(videos: Path) -> dict[str, str]:
    return {path.with_suffix(".mp4").name: path.read_text() for path in videos.glob("*.txt")}


@pytest.fixture(scope="session")
def index_folder(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("index") / "index"
    assert index(["--model=shapes", f"--data={videos}", f"--out={out}", "--workers=0"]) == 0
    return out


@pytest.fixture(scope="session")
def searcher(index_folder: Path) -> Searcher:
    return Searcher.open(index_folder)
