from functools import partial
from pathlib import Path

import pytest

from simvtp.config import DataConfig
from simvtp.data.corpus.rendering import render_corpus
from simvtp.pipelines.pretrain import setup


def test_the_embedded_corpus_has_as_many_clips_as_asked_for_and_draws_them_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    mini = partial(render_corpus, tmp_path, size=32, num_frames=4, num_validation=2)
    monkeypatch.setattr(setup, "render_corpus", partial(mini, num_processes=1, progress=False))
    data = setup.load_data(DataConfig(num_clips=70))
    assert data.validation is not None
    assert [len(data.train), len(data.validation)] == [70, 2]
    assert len(list(tmp_path.rglob("*.mp4"))) == 2
    assert data.files.local(data.train[69].path).stat().st_size > 0
    assert len(list(tmp_path.rglob("*.mp4"))) == 3


def test_a_number_of_clips_is_refused_beside_a_users_own():
    with pytest.raises(ValueError, match=r"num_clips 7 is .* train names own.csv; leave out one"):
        DataConfig(train="own.csv", num_clips=7)
