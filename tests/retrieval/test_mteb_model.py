"""The adapter in mteb's own evaluation: its figures are ours, and its own trial tasks pass."""

import pytest
import torch
from datasets import Dataset, Video

from simvtp.data.corpus.rendering import render_corpus
from simvtp.data.datasets.quarantine import TooManyBadClips
from simvtp.retrieval.gallery import embed_gallery, rank_queries, summarize_ranks
from simvtp.retrieval.mteb_model import MtebModel


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn")
    settings = {"num_train": 1, "num_up_front": 0, "num_processes": 1, "progress": False}
    return render_corpus(folder, num_validation=64, **settings).validation_clips()


@pytest.fixture(scope="module")
def model():
    return MtebModel("shapes", device="cpu")


def scores_of(model, task):
    import mteb

    settings = {"cache": None, "co2_tracker": False, "show_progress_bar": False}
    return mteb.evaluate(model, task, **settings).task_results[0].scores["test"][0]


@pytest.mark.slow
def test_its_recall_is_that_of_our_own_evaluation(model, records):
    from testing.retrieval.drawn_mteb_tasks import DrawnT2V

    found = scores_of(model, DrawnT2V(records))
    gallery = embed_gallery(model.model, records, batch_size=8, num_workers=0)
    ranks = rank_queries(gallery.text @ gallery.video.T, gallery.positives)
    ours = summarize_ranks(ranks, gallery.positives).text_to_video.recall
    assert 0 < ours[1] < 1
    for k, share in ours.items():
        assert found[f"recall_at_{k}"] == pytest.approx(share, abs=1e-5)


@pytest.mark.slow
def test_it_classifies_videos(model, records):
    from testing.retrieval.drawn_mteb_tasks import DrawnClasses

    assert scores_of(model, DrawnClasses(records))["accuracy"] > 0.7


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Precision is ill-defined")
def test_the_video_tasks_that_mteb_tries_models_with_run(model):
    from mteb.mocks.mock_run import get_compatible_mock_tasks
    from mteb.models import EncoderProtocol

    assert isinstance(model, EncoderProtocol)
    tasks = [t for t in get_compatible_mock_tasks(model) if "video" in t.metadata.modalities]
    assert len(tasks) > 3
    for task in tasks:
        assert scores_of(model, task), task.metadata.name


class _Loader:
    def __init__(self, **columns):
        self.dataset = Dataset.from_dict(columns)


def test_rows_of_text_and_video_are_the_direction_of_the_sum(model, records):
    loader = _Loader(text=["a red ring"], video=[str(records[0].path)])
    loader.dataset = loader.dataset.cast_column("video", Video())
    both = model.encode(loader, show_progress_bar=False)
    text = model.encode(_Loader(text=["a red ring"]))
    loader.dataset = loader.dataset.remove_columns("text")
    video = model.encode(loader, show_progress_bar=False)
    torch.testing.assert_close(both, torch.nn.functional.normalize(text + video, dim=-1))
    torch.testing.assert_close(model.similarity(text, video)[0], (text * video).sum(dim=-1))
    torch.testing.assert_close(model.similarity_pairwise(text, video), (text * video).sum(dim=-1))


def test_bytes_are_read_as_the_file_is_and_bad_ones_are_named(model, records, capsys):
    files = [record.path for record in records[:12]]
    named = [{"path": str(file), "bytes": None} for file in files]
    held = [{"path": file.name, "bytes": file.read_bytes()} for file in files[:11]]
    held.append({"path": "bad.mp4", "bytes": b"nothing"})
    loaders = [_Loader(video=videos) for videos in (named, held)]
    for loader in loaders:
        loader.dataset = loader.dataset.cast_column("video", Video())
    whole, holed = (model.encode(loader, show_progress_bar=False) for loader in loaders)
    assert torch.equal(whole[:11], holed[:11])
    assert not holed[11].any()
    assert "video 11 of the task is unreadable" in capsys.readouterr().err
    loaders[1].dataset = loaders[1].dataset.select([0, 11])
    with pytest.raises(TooManyBadClips, match=r"1 cannot be read.*raise the limit with max_bad_"):
        model.encode(loaders[1], show_progress_bar=False)


def test_other_columns_are_refused(model):
    with pytest.raises(ValueError, match=r"columns text and video; the task has audio"):
        model.encode(_Loader(audio=["a"]))
    with pytest.raises(ValueError, match=r"must be of datasets\.Video, got Value"):
        model.encode(_Loader(video=["clip.mp4"]), show_progress_bar=False)
