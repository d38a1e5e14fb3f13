"""An index of drawn clips by the model that ships, made once: searching without any data."""

import csv
import io
from pathlib import Path

from simvtp.command_line import INTERRUPTED
from simvtp.data import ClipRecord
from simvtp.data.clip_table import portable_name
from simvtp.data.corpus.rendering import Corpus, render_corpus
from simvtp.data.places import cache_folder
from simvtp.files import write_whole
from simvtp.model import SimVTP
from simvtp.pipelines.index import main as index
from simvtp.pipelines.search.searcher import Searcher
from simvtp.retrieval.embedding import Precision
from simvtp.retrieval.video_index import VideoIndex, VideoIndexError, model_digest

SHIPPED = "shapes"
# Among which the held-out clips are to be found.
_NUM_OTHERS = 744
_PREFIX = "demo-"


def demo_searcher(*, device: str = "cpu", precision: Precision = "fp32") -> Searcher:
    """Searches the embedded corpus's held-out clips among others with `shapes`.

    Args:
        device: where the model computes.
        precision: as for `Searcher`.

    Raises:
        RuntimeError: the clips could not be indexed; why has been printed.
    """
    corpus = render_corpus(num_up_front=0)
    others = corpus.train_clips()[:_NUM_OTHERS]
    if not all(Path(str(clip.path)).is_file() for clip in others):
        corpus = render_corpus(num_up_front=_NUM_OTHERS)
    model = SimVTP.from_pretrained(SHIPPED).to(device)
    place = demo_index(corpus, model, num_others=_NUM_OTHERS)
    return Searcher(model, VideoIndex.open(place), name=SHIPPED, precision=precision)


def demo_index(corpus: Corpus, model: SimVTP, *, num_others: int, num_workers: int = 1) -> Path:
    """The index of a corpus in the cache folder; what is missing is indexed.

    Args:
        corpus: its clips are drawn.
        model: the one that ships.
        num_others: training clips beside the held-out ones.
        num_workers: processes that decode.

    Raises:
        RuntimeError: they could not be indexed; why has been printed.
    """
    clips = [*corpus.validation_clips(), *corpus.train_clips()[:num_others]]
    name = f"{_PREFIX}{model_digest(model)[:12]}-{corpus.root.name}-{len(clips)}"
    place = cache_folder() / name
    if not _is_whole(place, len(clips)):
        manifest = _write_manifest(corpus, clips)
        words = [f"--model={SHIPPED}", f"--data={manifest}", f"--workers={num_workers}"]
        code = index([*words, f"--out={place}"])
        if code == INTERRUPTED:
            raise KeyboardInterrupt
        if code:
            raise RuntimeError(f"the demo was not indexed: mend what is said, or delete {place}")
        if not _is_whole(place, len(clips)):
            raise RuntimeError("the demo is not indexed to its end; the same command goes on")
    return place


def index_name(place: str) -> str:
    """What to call an index: by its folder, which of the demo's nobody has chosen."""
    is_demo = Path(place).parent == cache_folder() and Path(place).name.startswith(_PREFIX)
    return "demo" if is_demo else Path(place).name or place


def _is_whole(place: Path, num_files: int) -> bool:
    try:
        return VideoIndex.open(place).num_files == num_files
    except VideoIndexError:
        return False


def _write_manifest(corpus: Corpus, clips: list[ClipRecord]) -> Path:
    manifest = corpus.root / f"demo-{len(clips)}.csv"
    lines = io.StringIO(newline="")
    writer = csv.writer(lines)
    writer.writerow(["videoid", "path", "caption"])
    for clip in clips:
        writer.writerow([clip.video_id, portable_name(clip, corpus.root), *clip.captions])
    write_whole(manifest, lines.getvalue())
    return manifest
