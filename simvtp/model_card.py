"""Where a model comes from and what it can do, kept in its folder and told by its model card."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData, ModelHubMixin

from simvtp.config.json_file import read_json, write_json
from simvtp.conversion import Origin, read_origins, write_origins

TRAINING_FILE = "training.json"
_LICENCE = "apache-2.0"
# The hub's word for a licence that nobody told.
_UNKNOWN = "unknown"
_PAPER = "https://arxiv.org/abs/2212.03490"


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One training run.

    Attributes:
        name: pre-training, or fine-tuning with its task.
        data: what it was trained on.
        recipe: its settings, by dotted name.
        metrics: what was measured at its end.
    """

    name: str
    data: str
    recipe: Mapping[str, Any]
    metrics: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """What a model card tells beside the sizes.

    Attributes:
        origins: foreign files that weights began with.
        stages: training runs, the first one first.
    """

    origins: tuple[Origin, ...] = ()
    stages: tuple[Stage, ...] = ()

    def after(self, stage: Stage) -> "ModelFacts":
        """The facts with one more training run."""
        return replace(self, stages=(*self.stages, stage))

    @property
    def licence(self) -> str:
        """The strictest licence: weights that began with others stay under theirs.

        Non-commercial terms go before any other, and a licence that is not stated before
        Apache-2.0: the card claims no right that its sources do not give.
        """
        foreign = [origin.licence.lower() for origin in self.origins]
        known = [_UNKNOWN if licence == "not stated" else licence for licence in foreign]
        return min(known, key=_freedom, default=_LICENCE)


class DocumentedModel(ModelHubMixin):
    """A model that knows where it comes from, through saving, loading and `push_to_hub`."""

    facts: ModelFacts = ModelFacts()

    @property
    def usage(self) -> str:
        """Lines of Python for the card: what one does with the model, called `model`."""
        return ""

    def generate_model_card(self, *arguments: Any, **options: Any) -> ModelCard:
        """The README.md of the model's folder, as the hub shows it."""
        template = self._hub_mixin_info.model_card_data
        data = ModelCardData(
            library_name="simvtp",
            license=self.facts.licence,
            tags=[tag for tag in template.tags or [] if tag != "model_hub_mixin"],
        )
        kind, module = type(self).__name__, module_of(self)
        own = getattr(self, "own_parts", ())
        text = card_text(kind, module, usage=self.usage, facts=self.facts, own_parts=own)
        return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}")


def _freedom(licence: str) -> int:
    """Smaller is stricter."""
    if "-nc" in licence:
        return 0
    return {_UNKNOWN: 1, _LICENCE: 3}.get(licence, 2)


def module_of(model: object) -> str:
    """Package that a model's class is imported from."""
    return ".".join(type(model).__module__.split(".")[:2]).removesuffix(".model")


def card_text(
    kind: str, module: str, *, usage: str, facts: ModelFacts, own_parts: Sequence[str] = ()
) -> str:
    """Body of a model card.

    Args:
        kind: name of the class.
        module: where it is imported from.
        usage: what one does with it.
        facts: origins and training.
        own_parts: parts that are not the library's, which whoever loads the model must give.
    """
    given = "".join(f", {name}=..." for name in own_parts)
    imports = f"from simvtp import read_video\nfrom {module} import {kind}"
    if module == "simvtp":
        imports = f"from simvtp import {kind}, read_video"
    parts = [
        f"# {kind}\n\nA video-text model of the library SimVTP, after [the paper]({_PAPER}): one "
        "transformer for video, text and both, pre-trained as a masked autoencoder. "
        "`preprocessor.json` says how clips are cut; pixels are normalised inside the model.",
        f"```python\n{imports}\n\n"
        f'model = {kind}.from_pretrained("this folder or repository"{given})\n{usage}\n```',
    ]
    parts += [_stage_text(stage) for stage in facts.stages]
    if not facts.stages:
        since = " since it was made of the files named below" if facts.origins else ""
        parts.append(f"## Training\n\nNot trained by this library{since}.")
    parts.append(_licence_text(facts))
    return "\n\n".join(parts) + "\n"


def _stage_text(stage: Stage) -> str:
    parts = [f"## {stage.name.capitalize()}\n\nData: {stage.data}"]
    if stage.metrics:
        rows = {name: f"{value:.4g}" for name, value in stage.metrics.items()}
        parts.append(_table(("measured", "value"), rows))
    if stage.recipe:
        parts.append(f"<details><summary>Settings</summary>\n\n{_settings(stage)}\n\n</details>")
    return "\n\n".join(parts)


def _settings(stage: Stage) -> str:
    return _table(("setting", "value"), {f"`{name}`": v for name, v in stage.recipe.items()})


def _table(header: tuple[str, str], rows: Mapping[str, Any]) -> str:
    lines = [header, ("---", "---"), *((name, str(value)) for name, value in rows.items())]
    return "\n".join(f"| {name} | {value} |".replace("\n", " ") for name, value in lines)


def _licence_text(facts: ModelFacts) -> str:
    if not facts.origins:
        return "## Licence\n\nApache-2.0."
    lines = [
        f"- {origin.kind}, `{origin.source}` (sha256 {origin.sha256[:16]}...), {origin.licence}: "
        f"{', '.join(origin.parts)}"
        for origin in facts.origins
    ]
    note = "Apache-2.0."
    if facts.licence == _UNKNOWN:
        note = (
            "Some weights began with others whose licence is not stated: ask who made them "
            "before passing these on."
        )
    elif facts.licence != _LICENCE:
        note = (
            f"Some weights began with others under {facts.licence.upper()}; whatever is trained "
            "from them stays under those terms, whichever licence the library has."
        )
    return "## Licence\n\n" + note + "\n\nFiles the weights began with:\n\n" + "\n".join(lines)


def write_facts(folder: Path, facts: ModelFacts) -> None:
    """Keep a model's facts in its folder: origin.json and training.json, where there are any."""
    if facts.origins:
        write_origins(folder, facts.origins)
    if facts.stages:
        stages = [
            {
                "name": stage.name,
                "data": stage.data,
                "recipe": dict(stage.recipe),
                "metrics": dict(stage.metrics),
            }
            for stage in facts.stages
        ]
        write_json(folder / TRAINING_FILE, {"stages": stages})


def read_facts(folder: Path) -> ModelFacts:
    """Facts that a model folder tells.

    Raises:
        ValueError: one of the files is damaged.
    """
    path = folder / TRAINING_FILE
    stages = read_json(path).get("stages", []) if path.is_file() else []
    if not isinstance(stages, list):
        raise ValueError(f"{path}: stages must be a list, got {stages!r:.80}; save the model anew")
    known = tuple(_stage(stage, f"{path}: stages[{number}]") for number, stage in enumerate(stages))
    return ModelFacts(origins=read_origins(folder), stages=known)


def _stage(stage: Any, where: str) -> Stage:
    kinds = {"name": str, "data": str, "recipe": dict, "metrics": dict}
    if not isinstance(stage, dict) or set(stage) != set(kinds):
        raise ValueError(
            f"{where} must hold {', '.join(kinds)}, got {stage!r:.80}; save the model anew"
        )
    for name, kind in kinds.items():
        if not isinstance(stage[name], kind):
            raise ValueError(
                f"{where}.{name} must be {'an object' if kind is dict else 'a text'}, got "
                f"{stage[name]!r:.80}; save the model anew"
            )
    for name, value in stage["metrics"].items():
        if type(value) not in (int, float):
            raise ValueError(
                f"{where}.metrics.{name} must be a number, got {value!r:.80}; save the model anew"
            )
    return Stage(**stage)
