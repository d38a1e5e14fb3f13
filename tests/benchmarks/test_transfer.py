"""The transfer benchmark: which runs it begins, with what settings, and what it says of them."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks import transfer
from benchmarks.transfer_data import Annotations, render_tasks
from simvtp import SimVTP
from simvtp.data import train_tokenizer
from simvtp.pipelines.finetune import command as finetune
from testing.sample_batches import small_config

NAMES = {"classification": "top-1", "qa": "accuracy", "retrieval": "t2v recall@10"}


@pytest.fixture
def out(tmp_path):
    """A folder whose clips count as rendered."""
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "done").touch()
    return tmp_path


@pytest.fixture
def begin(out, monkeypatch):
    """Run the command; its exit code."""

    def command(*arguments, model="model"):
        words = ["transfer", f"--model={model}", f"--out={out}", *arguments]
        monkeypatch.setattr("sys.argv", words)
        return transfer.main()

    return command


def write_result(out, task, weights, share, seed, value):
    folder = out / f"{task}-{weights}-{share}-{seed}" / "run"
    folder.mkdir(parents=True)
    figures = {"validation": {NAMES[task]: 0.999}, "test": {NAMES[task]: value, "unreadable": 0}}
    (folder / "results.json").write_text(json.dumps(figures))


def test_runs_are_fine_tuned_with_the_share_and_seed_that_they_are_named_by(out):
    options = transfer._parser().parse_args([f"--model={out}", f"--out={out}", "--seeds=2"])
    cells = list(transfer._cells(options))
    assert len(set(cells)) == len(cells) == 3 * 2 * 3 * 2
    assert [cell.seed for cell in cells] == [0] * 18 + [1] * 18
    parser, folders, epochs = finetune.build_parser(), set(), {}
    annotations = Annotations(Path("train.csv"), Path("test.csv"))
    for cell in cells:
        run = transfer._run(options, cell, annotations)
        ((module, *arguments),) = run.commands
        assert module == "simvtp.pipelines.finetune"
        parsed = parser.parse_args(arguments)
        assert (parsed.task, parsed.model) == (cell.task, str(out))
        assert (parsed.data.train, parsed.data.test) == ("train.csv", "test.csv")
        assert parsed.data.label_share == cell.share
        assert (parsed.run.seed, parsed.tune.weights) == (cell.seed, cell.weights)
        assert run.result == Path(parsed.run.out) / "results.json"
        assert parsed.resume is False
        folders.add(run.folder)
        epochs.setdefault(cell.share, set()).add(parsed.run.epochs)
    assert len(folders) == len(cells)
    # However the weights begin, they are tuned as long; fewer labels are seen more often.
    lengths = [epochs[share] for share in sorted(epochs)]
    assert [len(each) for each in lengths] == [1, 1, 1]
    assert min(lengths[0]) > min(lengths[1]) > min(lengths[2])


def test_a_begun_run_goes_on(out):
    options = transfer._parser().parse_args([f"--model={out}", f"--out={out}"])
    cell = transfer.Cell("qa", "random", 0.1, 2)
    (out / "qa-random-0.1-2" / "run").mkdir(parents=True)
    (out / "qa-random-0.1-2" / "run" / "config.yaml").touch()
    run = transfer._run(options, cell, Annotations(out / "train.csv", out / "test.csv"))
    assert finetune.build_parser().parse_args(run.commands[0][1:]).resume is True


def test_the_report_is_the_arithmetic_of_the_runs(out, begin, capsys):
    values = {
        ("retrieval", "pretrained", 0.1): (0.5, 0.25, 0.3),
        ("retrieval", "random", 0.1): (0.1, 0.25, 0.4),
        ("qa", "pretrained", 1): (0.7,),
        ("qa", "pretrained", 0.01): (0.5, 0.6),
        ("qa", "random", 0.01): (0.4,),
    }
    for (task, weights, share), each in values.items():
        for seed, value in enumerate(each):
            write_result(out, task, weights, share, seed, value)
    json_file, table, plot = (out / name for name in ("a.json", "a.md", "a.png"))
    files = [f"--json={json_file}", f"--markdown={table}", f"--plot={plot}"]
    assert begin("--report-only", *files) == 0
    rows = [
        [cell.strip() for cell in line.strip("|\n").split("|")]
        for line in table.read_text().splitlines()
    ]
    assert rows[0] == ["test result, %", "labels", "pre-trained", "from scratch", "seeds it wins"]
    found = {(title.split()[0], share): cells for title, share, *cells in rows[2:]}
    assert len(found) == 9
    # Of three pairs one is won, one equal and one lost.
    assert found.pop(("text", "10%")) == ["35.0 (25.0 to 50.0)", "25.0 (10.0 to 40.0)", "1 of 3"]
    assert found.pop(("how", "100%")) == ["70.0 (70.0 to 70.0)", "-", "0 of 0"]
    assert found.pop(("how", "1%")) == ["55.0 (50.0 to 60.0)", "40.0 (40.0 to 40.0)", "1 of 1"]
    assert set(map(tuple, found.values())) == {("-", "-", "0 of 0")}
    report = json.loads(json_file.read_text())
    assert report["command"].startswith("python -m benchmarks.transfer --model=model")
    assert report["clips"] == 1000
    assert sorted(
        (run["task"], run["weights"], run["share"], run["seed"], run["value"])
        for run in report["runs"]
    ) == sorted((*cell, n, value) for cell, each in values.items() for n, value in enumerate(each))
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert "35.0 (25.0" in capsys.readouterr().out


def test_only_the_asked_seeds_and_shares_are_reported(out, begin):
    for seed, value in enumerate((0.2, 0.4, 0.9)):
        write_result(out, "qa", "pretrained", 0.1, seed, value)
        write_result(out, "qa", "pretrained", 1, seed, value)
    table = out / "a.md"
    options = ("--report-only", "--seeds=2", "--shares", "0.1", f"--markdown={table}")
    assert begin(*options) == 0
    lines = [line for line in table.read_text().splitlines() if "colour" in line]
    assert [line.count("30.0 (20.0 to 40.0)") for line in lines] == [0, 1, 0]


def test_nothing_to_report_is_an_error(begin, capsys):
    assert begin("--report-only") == 1
    assert "no run is finished, there is nothing to report" in capsys.readouterr().out


@pytest.mark.slow
def test_only_what_is_missing_runs_and_what_fails_is_said(tmp_path, out, begin, capsys):
    """Five of the six runs are done; the sixth really fine-tunes a small model."""
    (out / "clips" / "done").unlink()
    tasks = render_tasks(out / "clips", num_train=8, num_test=4)
    captions = tasks["retrieval"].train.read_text().splitlines()
    tokenizer = train_tokenizer(captions)
    torch.manual_seed(0)
    sizes = small_config(vocab_size=tokenizer.get_vocab_size(), max_text_length=32)
    SimVTP.from_config(sizes, tokenizer=tokenizer).save_pretrained(tmp_path / "model")
    for number, (task, weights) in enumerate(
        (task, weights) for task in NAMES for weights in ("pretrained", "random")
    ):
        if (task, weights) != ("retrieval", "pretrained"):
            write_result(out, task, weights, 1, 0, number / 10)
    options = ("--seeds=1", "--shares", "1.0", "--processes=1", f"--json={out / 'a.json'}")
    assert begin(*options, model=tmp_path / "nowhere") == 1
    said = " ".join(capsys.readouterr().out.split())
    log = out / "retrieval-pretrained-1-0" / "log.txt"
    command = "simvtp.pipelines.finetune"
    assert f"failed: retrieval, pretrained, 100%, seed 0: {command} ended with 2, see" in said
    assert "neither a folder here" in log.read_text()
    assert len(json.loads((out / "a.json").read_text())["runs"]) == 5
    assert begin(*options, model=tmp_path / "model") == 0
    runs = {
        (run["task"], run["weights"]): run["value"]
        for run in json.loads((out / "a.json").read_text())["runs"]
    }
    assert len(runs) == 6
    # Four clips to find: the right one is always among the best ten.
    assert runs.pop(("retrieval", "pretrained")) == 1.0
    assert list(runs.values()) == [0.0, 0.1, 0.2, 0.3, 0.5]
    assert SimVTP.from_pretrained(log.parent / "run" / "model").config == sizes
