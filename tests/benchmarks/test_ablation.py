"""The ablation's statistics, its report, and one of its runs at the smallest size."""

import csv
import json
import math
from argparse import Namespace

import pytest
from rich.console import Console

from benchmarks.ablation import VARIANTS, main, write_manifests
from benchmarks.ablation_report import FIGURES, compare, write_report
from simvtp.config import MaskingConfig, ObjectiveConfig
from simvtp.data.corpus.rendering import Corpus, DrawnClips
from simvtp.pipelines.pretrain import LAPTOP_RECIPE


def test_variants_change_settings_that_exist():
    sections = {"masking": MaskingConfig, "objective": ObjectiveConfig}
    for name, changes in VARIANTS.items():
        for key, value in changes.items():
            if key == "data.train":
                continue
            section, _, setting = key.partition(".")
            built = sections[section](**{setting: value})
            usual = LAPTOP_RECIPE.get(key, getattr(sections[section](), setting))
            assert getattr(built, setting) != usual, name


def test_interval_is_students_t_of_the_paired_differences():
    difference = compare({0: 3.0, 1: 5.0, 2: 10.0}, {0: 1.0, 1: 1.0, 2: 4.0, 9: 0.0})
    # Differences 2, 4, 6: mean 4, standard deviation 2.
    assert difference.mean == pytest.approx(4)
    assert difference.half_width == pytest.approx(4.303 * 2 / math.sqrt(3))
    assert difference.num_seeds == 3
    assert not difference.is_clear
    assert math.isinf(compare({1: 2.0}, {1: 1.0}).half_width)
    with pytest.raises(ValueError, match="no seed in common"):
        compare({1: 2.0}, {2: 1.0})


def results_of(baseline_matching):
    """Three seeds of three variants, the first of them with the given matching."""
    results = []
    for seed in range(3):
        for variant, value in (("baseline", 40.0), ("without VTC", 5.0), ("without VTM", 40.5)):
            figures = dict.fromkeys(FIGURES, value + 0.1 * seed * (variant == "without VTM"))
            if variant == "baseline":
                figures["matching AUC"] = baseline_matching[seed]
            results.append({"variant": variant, "seed": seed, **figures})
    return results


def report(results, folder):
    options = Namespace(
        json=folder / "results" / "a.json",
        page=folder / "docs" / "a.md",
        plot=folder / "pictures" / "a.png",
    )
    settings = {"clips": 4800, "epochs": 2, "batch": 16, "seeds": 3}
    write_report(
        results, settings=settings, command="this", options=options, console=Console(quiet=True)
    )
    return options


def test_a_report_says_what_the_numbers_say(tmp_path):
    results = results_of((49.0, 51.0, 50.0))
    options = report(results, tmp_path)
    page = options.page.read_text()
    told = "matching AUC, without VTC | -45.0 ± 2.5 | confirmed |"
    assert f"| the contrastive loss helps matching | {told}" in page
    assert "| recall@10, without VTM | +0.6 ± 0.2 | contradicted |" in page
    assert "| recall@10, video ratio 0.9 | no run is finished |  |" in page
    assert "3 seeds each" in page
    assert "(../pictures/a.png)" in page
    assert json.loads(options.json.read_text())["runs"] == results
    assert options.plot.stat().st_size > 1000


@pytest.mark.parametrize(
    ("matching", "said"),
    [
        ((49.0, 51.0, 50.0), "cannot be told from chance (+0.0 ± 2.5)"),
        ((60.0, 61.0, 62.0), "is above chance (+11.0 ± 2.5)"),
        ((40.0, 40.0, 40.0), "is below chance (-10.0 ± 0.0)"),
    ],
)
def test_what_is_said_of_matching_follows_its_figures(tmp_path, matching, said):
    page = report(results_of(matching), tmp_path).page.read_text()
    assert f"baseline's matching head {said}" in page


def test_report_only_tells_of_what_is_finished_and_how_to_repeat_all(tmp_path, monkeypatch, capsys):
    page, out = tmp_path / "a b.md", tmp_path / "runs"
    words = ["ablation", "--report-only", "--out", str(out), "--page", str(page)]
    monkeypatch.setattr("sys.argv", words)
    assert main() == 1
    assert "no run of the baseline is finished" in capsys.readouterr().out
    for name, value in (("baseline-0", 40.0), ("baseline-1", 42.0), ("without-VTC-1", 4.0)):
        (out / name / "run").mkdir(parents=True)
        figures = dict.fromkeys(FIGURES, value)
        (out / name / "result.json").write_text(json.dumps(figures))
        (out / name / "run" / "config.yaml").write_text("run: {epochs: 2, batch_size: 16}")
    assert main() == 0
    text = page.read_text()
    assert "| baseline (means) | 2 | 41.0 |" in text
    assert "| without VTC | 1 | -38.0 ± ? |" in text
    repeated = f"--epochs 2 --batch 16 --seeds 5 --processes 2 --threads 1 --page '{page}'`"
    assert text.endswith(f"Repeat: `python -m benchmarks.ablation {repeated}\n")
    assert "report-only" not in text
    capsys.readouterr()
    monkeypatch.setattr("sys.argv", [*words, "--epochs", "5"])
    assert main() == 2
    assert "was begun with epochs 2, not 5; give the same again" in capsys.readouterr().out


def test_manifests_of_few_clips_and_of_captions_of_others(tmp_path):
    train = tmp_path / "train.csv"
    files = DrawnClips(tmp_path, "train", 40, num_frames=32, size=64, seed=0)
    rows = [[f"train-{n}", f"train/{n}.mp4", f"caption {n}, at last"] for n in range(40)]
    with train.open("w", newline="") as file:
        csv.writer(file).writerows([["videoid", "path", "caption"], *rows])
    write_manifests(tmp_path / "out", Corpus(tmp_path, train, train, files))
    read = {
        name: list(csv.DictReader((tmp_path / "out" / f"{name}.csv").read_text().splitlines()))
        for name in ("all", "few", "shuffled")
    }
    assert read["few"] == read["all"][:4]
    assert [row["path"] for row in read["shuffled"]] == [row[1] for row in rows]
    captions = [row["caption"] for row in read["shuffled"]]
    assert sorted(captions) == sorted(row[2] for row in rows)
    assert sum(mine == row[2] for mine, row in zip(captions, rows, strict=True)) < 8
