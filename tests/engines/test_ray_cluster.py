"""What machines of a Ray cluster give back is what this machine gives, whatever is lost."""

import os
import random
import signal
import threading
import time
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from simvtp.data import load_manifest
from simvtp.data.preparing.checks import CheckStage
from simvtp.engines import LocalEngine
from simvtp.engines.parts import Part
from simvtp.pipelines.embed import command as embed
from simvtp.pipelines.index import command as index
from simvtp.pipelines.prepare import command as prepare
from simvtp.retrieval.video_index import VideoIndex
from testing.data.video_files import write_video_file
from testing.engines.stages import Numbers

ray = pytest.importorskip("ray")
ray_cluster = pytest.importorskip("simvtp.engines.ray_cluster")
pytestmark = pytest.mark.slow
MODEL = "--model=shapes"


@pytest.fixture(scope="session")
def videos(tmp_path_factory):
    """Twelve videos, one of which is none, and a list of them."""
    folder = tmp_path_factory.mktemp("many")
    rows = ["videoid,path,caption"]
    for number in range(12):
        write_video_file(folder / f"{number}.mp4", 6 + 5 * (number % 4))
        rows.append(f"id{number},{number}.mp4,clip {number} of a row")
    (folder / "5.mp4").write_text("this is no video")
    (folder / "clips.csv").write_text("\n".join(rows))
    return folder


def embed_to(out: Path, videos: Path, *further: str) -> int:
    own = (MODEL, f"--data={videos}/clips.csv", f"--out={out}", "--text", "--device=cpu")
    settings = ("--batch-size=2", "--workers=0", "--max-bad-share=1", "--save-every=0")
    return embed.main([*own, *settings, *further])


def files(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.parent.iterdir() if path.is_file()}


@pytest.fixture(scope="session")
def local_features(videos, tmp_path_factory):
    out = tmp_path_factory.mktemp("local") / "a.parquet"
    assert embed_to(out, videos) == 0
    return files(out)


def test_a_machine_is_killed_in_the_middle(
    machines, videos, local_features, tmp_path, capsys, monkeypatch
):
    """Two machines; one is killed when both are at two parts each and others are saved."""
    one, other = machines.add(num_cpus=1), machines.add(num_cpus=1)
    out = tmp_path / "a.parquet"
    lost = []
    hand_out, replace = ray_cluster.RayEngine._hand_out, ray_cluster.RayEngine._replace

    def kill_in_the_middle(engine, stage):
        if len(engine._given) < 2 and not lost and machines.is_up(one):
            return
        hand_out(engine, stage)
        is_saved = any(out.with_name("a.parquet.partial").glob("0*[0-9].parquet"))
        if is_saved and machines.is_up(one) and all(map(len, engine._given.values())):
            machines.kill(one)

    def noted(engine, actor, error):
        lost.append([part.number for part in engine._given[actor]])
        replace(engine, actor, error)

    monkeypatch.setattr(ray_cluster.RayEngine, "_hand_out", kill_in_the_middle)
    monkeypatch.setattr(ray_cluster.RayEngine, "_replace", noted)
    cluster = ("--engine=ray", f"--ray-address={machines.address}", "--part-size=2")
    assert embed_to(out, videos, *cluster) == 0
    assert len(lost) == 1
    assert lost[0]
    assert files(out) == local_features
    assert "ray: 3 machines with 2 cores and 0 GPUs; 2 actors of 1 core" in capsys.readouterr().out
    machines.kill(other)


@pytest.fixture(scope="module")
def engine(machines):
    """An actor on a machine whose GPU is only in Ray's books; it takes half of that."""
    machine = machines.add(num_cpus=2, num_gpus=1)
    shape = ray_cluster.ActorShape(1, 0.5)
    with ray_cluster.connected(machines.address):
        assert ray_cluster.Cluster.now().room(shape) == 2
        engine = ray_cluster.RayEngine(shape=shape, num_actors=1, part_size=2)
        engine.device = "cpu"
        yield engine
    machines.kill(machine)


@pytest.fixture
def on_cluster(engine, monkeypatch):
    for command in (embed, index, prepare):
        monkeypatch.setattr(command, "chosen_engine", lambda *_: nullcontext(engine))


def test_each_item_is_done_once_on_a_share_of_a_gpu(engine):
    done = list(engine.run(Numbers(), range(3, 60), start=4))
    assert [one.item for one in done] == list(range(7, 60))
    assert {one.gpus for one in done} == {("0",)}
    assert os.getpid() not in {one.process for one in done}
    # The actor stays for the next stage.
    assert {one.process for one in engine.run(Numbers(), range(4))} == {done[0].process}
    deadline = time.monotonic() + 60
    while ray.available_resources()["GPU"] != 0.5 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert ray.available_resources()["GPU"] == 0.5


def test_a_machine_without_a_folder_is_told(engine):
    stage = ray.put(Numbers(folders=(Path("/no/such/folder"),)))
    with pytest.raises(ray_cluster.ClusterError, match=r"/no/such/folder: the machine 127\.0\.0"):
        ray_cluster._Worker(torch.get_num_threads()).do(Part(0, 0, (1,)), [stage])


def test_features_are_gone_on_with_elsewhere(
    engine, on_cluster, videos, local_features, tmp_path, monkeypatch
):
    """A run here is cut off; the cluster goes on with it, and leaves what is saved as it is."""
    out = tmp_path / "a.parquet"
    started = []

    class CutOff(LocalEngine):
        def run(self, stage, items, *, start=0):
            results = super().run(stage, items, start=start)
            yield from (next(results) for _ in range(3))
            raise OSError("the power is gone")

    class Noted:
        device = "cpu"

        def run(self, stage, items, *, start=0):
            started.append(start)
            return engine.run(stage, items, start=start)

    with monkeypatch.context() as patch:
        patch.setattr(embed, "chosen_engine", lambda *_: nullcontext(CutOff()))
        assert embed_to(out, videos) == 2
    monkeypatch.setattr(embed, "chosen_engine", lambda *_: nullcontext(Noted()))
    assert embed_to(out, videos) == 0
    assert started == [6, 0]
    assert files(out) == local_features


@pytest.mark.parametrize("anew", [(), ("--short-side=32", "--gop=4")])
def test_shards_are_the_same(on_cluster, videos, tmp_path, monkeypatch, anew):
    def packed(name: str) -> dict[str, bytes]:
        out = tmp_path / name / "shards"
        own = (f"--data={videos}/clips.csv", f"--out={out}", "--shuffle-seed=3")
        few = ("--clips-per-shard=4", "--workers=1")
        assert prepare.main([*own, *few, *anew]) == 0
        return {path.name: path.read_bytes() for path in out.iterdir()}

    on_machines = packed("ray")
    monkeypatch.setattr(prepare, "chosen_engine", lambda *_: nullcontext(LocalEngine()))
    assert packed("local") == on_machines
    assert len([name for name in on_machines if name.endswith(".tar")]) == 3


def test_a_decoder_that_crashes_kills_no_actor(engine, videos, tmp_path):
    (before,) = {one.process for one in engine.run(Numbers(), range(4))}
    records = list(load_manifest(videos / "clips.csv"))
    fifo = tmp_path / "3.mp4"
    os.mkfifo(fifo)
    records[3] = replace(records[3], path=fifo)
    killing = threading.Thread(target=kill_reader, args=(fifo,))
    killing.start()
    stage = CheckStage(clip_folders=(videos,), num_processes=1, time_limit=250)
    checked = list(engine.run(stage, records))
    killing.join()
    assert [clip.number for clip in checked] == list(range(12))
    bad = {clip.number: clip.reason for clip in checked if clip.reason}
    assert bad[3] == "the process that decoded it crashed (exit code -9)"
    assert bad.keys() == {3, 5}
    assert {one.process for one in engine.run(Numbers(), range(4))} == {before}


def kill_reader(fifo: Path) -> None:
    """Kill the process that opens a pipe, once it does."""
    deadline = time.monotonic() + 200
    writer = None
    while writer is None and time.monotonic() < deadline:
        time.sleep(0.05)
        # It can be opened in this way only while another process waits for its bytes.
        with suppress(OSError):
            writer = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
    while time.monotonic() < deadline:
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                opened = {link.readlink() for link in (process / "fd").iterdir()}
                if fifo in opened and process.name != str(os.getpid()):
                    os.kill(int(process.name), signal.SIGKILL)
                    os.close(writer)
                    return


def test_moments_are_the_same(on_cluster, tmp_path, monkeypatch):
    """Two videos end their groups by their names, so that there are three parts."""
    folder = tmp_path / "videos"
    folder.mkdir()
    random_sizes = random.Random(0)
    ends = index_ends(2)
    for name in [*ends, *(f"{number}{end}" for end in ends for number in range(3)), "z.mp4"]:
        write_video_file(folder / name, random_sizes.randrange(9, 40))
    (folder / "bad.mp4").write_text("this is no video")

    def rows(name: str) -> list:
        out = tmp_path / name
        own = (MODEL, f"--data={folder}", f"--out={out}", "--device=cpu", "--window=0.8")
        assert index.main([*own, "--batch-size=3", "--workers=0"]) == 0
        tables = VideoIndex.open(str(out))
        return [tables._moments.to_arrow().to_pylist(), tables._files.to_arrow().to_pylist()]

    on_machines = rows("ray")
    monkeypatch.setattr(index, "chosen_engine", lambda *_: nullcontext(LocalEngine()))
    assert rows("local") == on_machines
    assert len(on_machines[0]) > 20


def index_ends(number: int) -> list[str]:
    """Names of videos that end their groups."""
    from simvtp.retrieval.video_index.embedding import SourceFile, _ends_group

    names = (f"v{number}.mp4" for number in range(1000))
    ends = [n for n in names if _ends_group(SourceFile(0, n, n, None, None, 0, 0))]
    return ends[:number]


def test_a_part_that_kills_its_actor_ends_the_run(engine, monkeypatch):
    monkeypatch.setattr(ray_cluster, "_MOST_LOSSES", 1)
    # Of several parts the one before might be blamed, whose result goes down with the actor.
    with pytest.raises(ray_cluster.ClusterError, match="clips from number 0 on were lost") as error:
        list(engine.run(Numbers(deadly=(1,)), range(2)))
    assert "\n" not in str(error.value)


def test_what_a_stage_raises_comes_here_as_it_is(engine):
    with pytest.raises(ValueError, match=r"^1 is wrong$") as error:
        list(engine.run(Numbers(wrong=(1,)), range(2)))
    assert type(error.value) is ValueError
