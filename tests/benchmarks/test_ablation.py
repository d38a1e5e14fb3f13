"""The ablation's statistics, its report, and one of its runs at the smallest size."""

import json
import math
from argparse import Namespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from benchmarks.ablation import VARIANTS
from benchmarks.ablation_measure import PROPERTIES, area_under_curve, probe, word_labels
from benchmarks.ablation_report import FIGURES, compare, write_report
from simvtp.config import MaskingConfig, ObjectiveConfig
from simvtp.pipelines.pretrain import LAPTOP_RECIPE


def test_variants_change_settings_that_exist():
    sections = {"masking": MaskingConfig, "objective": ObjectiveConfig}
    for name, changes in VARIANTS.items():
        for key, value in changes.items():
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


@given(
    positives=st.lists(st.integers(0, 4), min_size=1, max_size=6),
    negatives=st.lists(st.integers(0, 4), min_size=1, max_size=6),
)
def test_area_under_curve_equals_a_loop(positives, negatives):
    wins = [
        1.0 if one > other else 0.5 if one == other else 0.0
        for one in positives
        for other in negatives
    ]
    got = area_under_curve(torch.tensor(positives).float(), torch.tensor(negatives).float())
    assert got == pytest.approx(sum(wins) / len(wins))


def test_a_probe_finds_what_is_linear_and_nothing_in_noise():
    generator = torch.Generator().manual_seed(0)
    train, held_out = (torch.randn(n, 8, generator=generator) for n in (400, 400))
    labels = [(features[:, :1] > 0).float() for features in (train, held_out)]
    assert probe(train, labels[0], held_out, labels[1]) > 0.97
    shuffled = labels[1][torch.randperm(400, generator=generator)]
    assert abs(probe(train, labels[0], held_out, shuffled) - 0.5) < 0.1


def test_labels_are_what_captions_say():
    captions = ["a red ring moves to the left", "a big blue hoop stays still"]
    colours = word_labels(captions, PROPERTIES["colours"])
    assert colours.sum(dim=1).tolist() == [1, 1]
    assert torch.equal(*word_labels(captions, PROPERTIES["shapes"]))
    motions = word_labels(captions, PROPERTIES["motions"])
    assert not torch.equal(motions[0], motions[1])
    assert motions.sum(dim=1).tolist() == [1, 1]


def test_a_report_says_what_the_numbers_say(tmp_path):
    results = []
    for seed in range(3):
        for variant, value in (("baseline", 40.0), ("without VTC", 5.0), ("without VTM", 40.5)):
            figures = dict.fromkeys(FIGURES, value + 0.1 * seed * (variant == "without VTM"))
            results.append({"variant": variant, "seed": seed, **figures})
    options = Namespace(json=tmp_path / "a.json", page=tmp_path / "a.md", plot=tmp_path / "a.png")
    settings = {"epochs": 2, "batch": 32, "seeds": 3}
    write_report(
        results, settings=settings, command="this", options=options, console=Console(quiet=True)
    )
    page = options.page.read_text()
    assert "VTC helps: agrees (-35.0 ± 0.0)" in page
    assert "VTM helps: does not hold here (+0.6" in page
    assert json.loads(options.json.read_text())["runs"] == results
    assert options.plot.stat().st_size > 1000
