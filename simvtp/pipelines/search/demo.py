"""An index of drawn clips by the model that ships, made once: searching without any data."""

import csv
import io
from pathlib import Path

from simvtp.data import ClipRecord
from simvtp.data.clip_table import portable_name
from simvtp.data.corpus.rendering import Corpus, render_corpus
from simvtp.data.places import cache_folder
from simvtp.files import write_whole
from simvtp.pipelines.index import main as index
from simvtp.pipelines.search.searcher import Searcher
from simvtp.retrieval.video_index import VideoIndex, VideoIndexError

_MODEL = "shapes"
# Among which the held-out clips are to be found.
_NUM_OTHERS = 744


def demo_searcher(*, device: str = "cpu", num_others: int = _NUM_OTHERS) -> Searcher:
    """Searches the held-out clips of the embedded corpus, and some of training, with `shapes`.

    What is missing is drawn and indexed, in the cache folder; that goes on where it was stopped.

    Args:
        device: where the model computes.
        num_others: training clips.

    Raises:
        RuntimeError: it could not be indexed; why has been printed.
    """
    corpus = render_corpus(num_up_front=0)
    others = corpus.train_clips()[:num_others]
    if not all(Path(str(clip.path)).is_file() for clip in others):
        corpus = render_corpus(num_up_front=num_others)
    clips = [*corpus.validation_clips(), *others]
    place = cache_folder() / f"demo-{corpus.root.name}-{len(clips)}"
    if not _is_whole(place, len(clips)):
        manifest = _write_manifest(corpus, clips)
        words = [f"--model={_MODEL}", f"--videos={manifest}", f"--out={place}"]
        if index(words):
            raise RuntimeError(f"the demo was not indexed: mend what is said, or delete {place}")
    return Searcher.open(place, model=_MODEL, device=device)


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
