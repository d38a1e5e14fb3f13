"""A run over a stream of Hugging Face `datasets`: interrupted, and gone on with from its place."""

from dataclasses import replace
from pathlib import Path

import datasets
import pytest

from simvtp.config import PretrainConfig
from simvtp.data import ClipStream, load_clips
from simvtp.pipelines.arguments import parse_settings
from simvtp.pipelines.pretrain import TrainingData, command, pretrain
from simvtp.trainer import Trainer
from testing.data.shard_files import write_shard
from testing.pipelines.runs import losses_of
from testing.sameness import assert_same


@pytest.fixture
def rows(corpus, tmp_path):
    """The training clips in two tar shards, streamed as WebDataset."""
    clips = list(load_clips(corpus.train, root=corpus.root))
    for number in range(2):
        members = []
        for clip in clips[number::2]:
            members.append((f"{clip.video_id}.mp4", Path(clip.path).read_bytes()))
            members.append((f"{clip.video_id}.txt", clip.captions[0].encode()))
        write_shard(tmp_path / f"{number}.tar", members)
    files = [str(tmp_path / f"{number}.tar") for number in range(2)]
    return datasets.load_dataset(
        "webdataset",
        data_files={"train": files},
        split="train",
        streaming=True,
        cache_dir=str(tmp_path / "hub"),
    )


def test_a_run_over_a_stream_goes_on_where_it_was(
    rows, settings_for, tmp_path, monkeypatch, capsys
):
    def config_for(out, **replaced):
        settings = settings_for(out, data__train="mine", run__epochs=2, **replaced)
        parsed = parse_settings(command.build_parser(), settings)
        config = PretrainConfig(**{name: getattr(parsed, name) for name in command.SETTINGS})
        return replace(config, data=replace(config.data, validation=None, shuffle_buffer=4))

    def streamed_to(folder):
        stream = ClipStream(rows, epoch_clips=16, folder=folder, columns="path=mp4,caption=txt")
        return lambda data: TrainingData(stream, None, stream)

    often = {"run__checkpoint_minutes": 1e-9}
    whole = pretrain(config_for(tmp_path / "whole"), load_data=streamed_to(tmp_path / "one"))
    assert "16 clips to train on, 0 held out; read as a stream" in capsys.readouterr().out
    original = Trainer._train_step

    def step(trainer, *arguments):
        if trainer.step == 3:
            raise KeyboardInterrupt
        original(trainer, *arguments)

    config = config_for(tmp_path / "run", data__num_workers=1, **often)
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_train_step", step)
        with pytest.raises(KeyboardInterrupt):
            pretrain(config, load_data=streamed_to(tmp_path / "two"))
    # With other workers, and the videos that the first part kept gone.
    for video in (tmp_path / "two/videos").iterdir():
        video.unlink()
    config = replace(config, data=replace(config.data, num_workers=2))
    resumed = pretrain(config, load_data=streamed_to(tmp_path / "two"), resume=True)
    assert losses_of(tmp_path / "run") == losses_of(tmp_path / "whole")
    assert_same(dict(resumed.model.state_dict()), dict(whole.model.state_dict()))


def test_a_stream_needs_a_vocabulary_and_is_not_kept_decoded(rows, settings_for, tmp_path):
    for settings, reason in (
        ({"data__tokenizer": "null"}, "name a vocabulary"),
        ({"data__clip_starts": 1, "data__cache_gb": 1}, "not kept decoded, got data.cache_gb 1"),
    ):
        arguments = settings_for(tmp_path / "run", data__train="mine", **settings)
        parsed = parse_settings(command.build_parser(), arguments)
        config = PretrainConfig(**{name: getattr(parsed, name) for name in command.SETTINGS})
        stream = ClipStream(rows, epoch_clips=16, folder=tmp_path / "stream")
        with pytest.raises(ValueError, match=reason):
            pretrain(config, load_data=lambda data, s=stream: TrainingData(s, None, s))
