"""A run over two sources: named in the command, told at the start, logged, killed and resumed."""

import os
import re
import signal

import pytest
import yaml

from benchmarks.kills import output_of, require_alone, wait_until
from benchmarks.small_runs import differences, logged, start, write_shards
from simvtp.config import DataConfig, DataSource
from simvtp.config.data_source import names_of
from simvtp.pipelines.arguments import parse_job, save_settings
from simvtp.pipelines.pretrain import build_parser
from simvtp.pipelines.pretrain import command as pretrain

STEPS = 9


def test_sources_are_typed_as_yaml(tmp_path):
    typed = "[{path: a.csv, weight: 3, root: CLIPS}, {path: SHARDS, weight: 1, name: tar}]"
    want = (
        DataSource(path="a.csv", weight=3, root="CLIPS"),
        DataSource(path="SHARDS", weight=1, name="tar"),
    )
    parsed = parse_job(build_parser(), ["--data.train", typed])
    assert parsed.data.train == parsed.data.sources == want
    save_settings({"data": {"train": yaml.safe_load(typed)}}, file=tmp_path / "mix.yaml")
    read = parse_job(build_parser(), ["--config", str(tmp_path / "mix.yaml")])
    assert read.data.train == want
    # One source is named as before, whatever it is called.
    for name in ("a.csv", "clips/{000..099}.tar", "[1].mp4"):
        parsed = parse_job(build_parser(), [f"--data.train={name}"])
        assert parsed.data.train == name
        assert parsed.data.sources == (DataSource(path=name),)


@pytest.mark.parametrize(
    ("sources", "reason"),
    [
        ("[]", "empty list; name one source or more"),
        ("[{path: a, weight: 3}, {path: b}]", "b has no weight and other sources have one"),
        ("[{path: a, weight: -1}]", "weight must be greater than 0"),
        ("[{path: a, weight: .nan}]", "weight must be a finite number"),
        ("[{path: ' '}]", "the path of a source is empty"),
        ("[{path: a, name: x}, {path: b, name: x}]", "two sources are named"),
        ("[{path: a, name: 'a b'}]", "must be letters, digits"),
        ("[{path: a, wieght: 2}]", "wieght"),
    ],
)
def test_sources_that_make_no_mixture_are_refused(capsys, sources, reason):
    with pytest.raises(SystemExit):
        parse_job(build_parser(), [f"--data.train={sources}"])
    assert reason in " ".join(capsys.readouterr().err.split())


def test_clips_of_an_epoch_are_for_sources():
    with pytest.raises(ValueError, match="embedded corpus has num_clips"):
        DataConfig(epoch_clips=8)


def test_each_source_has_a_name_of_its_own():
    paths = ["x/web.csv", "y/web.csv", "web-2.csv", "pipe:cat a", "clips/{000..099}.tar", "://"]
    sources = [*(DataSource(path=path) for path in paths), DataSource(path="q", name="web-3")]
    names = names_of(sources)
    assert names[:3] == ["web", "web-2", "web-2-2"]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[\w.-]+", name) for name in names)


def test_a_settings_file_holds_no_command_among_its_sources(tmp_path, capsys):
    file = tmp_path / "mix.yaml"
    sources = [{"path": "a.csv"}, {"path": "pipe:cat a=b.tar"}]
    save_settings({"data": {"train": sources}}, file=file)
    with pytest.raises(SystemExit):
        parse_job(build_parser(), ["--config", str(file)])
    assert "only a command that is typed is run" in capsys.readouterr().err
    typed = "[{path: a.csv}, {path: 'pipe:cat a=b.tar'}]"
    for arguments in ([f"--data.train={typed}"], ["--data.train", typed]):
        parsed = parse_job(build_parser(), ["--config", str(file), *arguments])
        assert parsed.data.sources[1].path == "pipe:cat a=b.tar"


@pytest.fixture(scope="module")
def sources(corpus, tmp_path_factory):
    """The first six clips as a table, and all sixteen as four shards."""
    table = tmp_path_factory.mktemp("tables") / "few.csv"
    table.write_text("".join(corpus.train.read_text().splitlines(keepends=True)[:7]))
    shards = write_shards(corpus, tmp_path_factory.mktemp("shards"))
    return (
        f"[{{path: {table}, weight: 3, root: {corpus.root}}}, "
        f"{{path: '{shards}', weight: 1, name: tar}}]"
    )


@pytest.mark.slow
@pytest.mark.timeout(600)
# The kill may come within a save, which is then passed over.
@pytest.mark.filterwarnings("ignore:passing over")
def test_a_run_over_two_sources_killed_and_resumed_is_the_same_to_the_last_bit(
    sources, settings_for, tmp_path, capsys
):
    settings = {"data__train": sources, "data__epoch_clips": 14, "run__epochs": 3}
    settings |= {"run__checkpoint_minutes": 1e-3, "run__log_every": 2}
    whole = tmp_path / "whole"
    assert pretrain.main(settings_for(whole, **settings)) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "few: 9 of 6 clips in an epoch, 1.5 passes" in told
    assert "tar: 3 of 16 clips in an epoch, 0.188 passes" in told

    lines = [line for line in logged(whole) if "event" not in line]
    assert [line["step"] for line in lines] == [2, 4, 6, 8, STEPS]
    # Clips of each source in a step, the mean of an interval.
    counts = [(line["clips few"] + line["clips tar"]) for line in lines]
    assert counts == [4] * len(lines)
    steps = [2, 2, 2, 2, 1]
    seen = sum(line["clips few"] * n for line, n in zip(lines, steps, strict=True))
    assert seen == 3 * 9
    last = lines[-1]
    share = last["clips few"] / 4
    mixed = share * last["pixels few"] + (1 - share) * (last["pixels tar"] or 0.0)
    assert mixed == pytest.approx(last["pixels"], rel=1e-5)

    run = tmp_path / "run"
    process = start(settings_for(run, **settings), cache=tmp_path / "cache")
    log = run / "metrics.jsonl"
    assert wait_until(lambda: log.exists() and len(log.read_text().splitlines()) > 1, process)
    os.killpg(process.pid, signal.SIGKILL)
    output_of(process)
    require_alone(process)
    resumed = [f"--run.out={run}", "--resume", "--data.num_workers=2"]
    assert pretrain.main(resumed) == 0
    assert differences(run, whole) == []


@pytest.mark.slow
def test_held_out_clips_that_are_trained_on_are_told(
    sources, settings_for, corpus, tmp_path, capsys
):
    run = tmp_path / "run"
    settings = {"data__train": sources, "data__validation": corpus.train, "run__epochs": 1}
    assert pretrain.main(settings_for(run, **settings)) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "6 of the 16 held-out clips are trained on as well" in told
    assert f"--data {corpus.train}" in told
    card = (run / "model/README.md").read_text()
    assert "22 captioned clips of few.csv, {000..003}.tar" in card
