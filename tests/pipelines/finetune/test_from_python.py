"""`finetune(...)` called from Python, with builders of one's own."""

import json

import torch

from simvtp.pipelines.arguments import parse_settings
from simvtp.pipelines.finetune import FinetuneConfig, build_task, command, finetune, load_model
from simvtp.pipelines.finetune.settings import SECTIONS
from simvtp.tasks import VideoClassifier
from testing.kept_calls import Kept


def config_of(arguments):
    parsed = parse_settings(command.build_parser(), arguments)
    sections = {name: getattr(parsed, name) for name in SECTIONS}
    return FinetuneConfig(task=parsed.task, model=parsed.model, **sections)


def test_a_call_takes_builders_and_gives_model_folder_and_results(command_for, tmp_path):
    built = []

    def own_model(config):
        built.append(load_model(config))
        return built[-1]

    def own_task(config, model):
        assert model is built[0]
        built.append(build_task(config, model))
        return built[-1]

    def own_optimizer(objective, optim, *, scales):
        assert objective is built[1].objective
        assert scales["model.head.weight"] == 1
        return torch.optim.AdamW(objective.parameters(), lr=optim.lr_per_256, fused=True)

    config = config_of(command_for("classification", tmp_path, run__epochs=1))
    logger = Kept()
    done = finetune(
        config,
        build_model=own_model,
        build_task=own_task,
        build_optimizer=own_optimizer,
        loggers=[logger],
    )
    assert logger.calls[-2][2:] == ("kept validation", done.results["validation"])
    assert logger.calls[-1] == ("close",)
    assert done.folder == tmp_path
    assert done.results == json.loads((tmp_path / "results.json").read_text())
    assert 0 <= done.results["validation"]["top-1"] <= 1
    saved = VideoClassifier.from_pretrained(tmp_path / "model")
    assert torch.equal(saved.head.weight, done.model.head.weight)
