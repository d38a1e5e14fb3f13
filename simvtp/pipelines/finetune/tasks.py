"""The three tasks of fine-tuning: their data, their objectives, how they are measured."""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import Tokenizer
from torch import nn

from simvtp.batch import Collator
from simvtp.data import ClipDataset, ClipRecord, special_token_ids
from simvtp.data.annotations import (
    load_labelled,
    load_questions,
    load_retrieval,
    with_known_answers,
)
from simvtp.data.datasets.tasks import (
    LabelledClips,
    LabelledDataset,
    QuestionDataset,
    QuestionSet,
)
from simvtp.data.video.augment import ClipAugment, MixAugment
from simvtp.losses import ContrastiveLoss, FeatureMemory
from simvtp.masking import TextMasker, TubeMasker
from simvtp.model import SimVTP
from simvtp.objective import Objective
from simvtp.parts import ModelParts
from simvtp.pipelines.finetune.measuring import measure_answers, measure_classes, measure_retrieval
from simvtp.pipelines.finetune.settings import FinetuneConfig
from simvtp.pipelines.finetune.splits import read_splits
from simvtp.tasks import (
    AnsweringObjective,
    ClassificationObjective,
    LabelledCollator,
    QuestionCollator,
    VideoAnswerer,
    VideoClassifier,
    train_parts,
)

Figures = dict[str, float]
_RESAMPLES = 1000


class Task(NamedTuple):
    """What the loop needs to know of a task.

    Attributes:
        objective: gives the losses of a batch; its `model` is what is saved.
        dataset: training samples.
        collate: makes a batch of some.
        measure: figures of a model on the split of a name, "validation" or "test".
        headline: the figure that decides, larger is better.
        name_of: names a training sample.
        splits: annotations of each split.
        sizes: clips or questions of each split.
        form: how the training annotations were understood, in words.
    """

    objective: nn.Module
    dataset: Any
    collate: Callable[[list[Any]], Any]
    measure: Callable[[Any, str], Figures]
    headline: str
    name_of: Callable[[int], str]
    splits: Mapping[str, Any]
    sizes: Mapping[str, int]
    form: str = ""


def build_task(config: FinetuneConfig, model: SimVTP) -> Task:
    """The task that the settings name.

    Args:
        config: settings of the run.
        model: the pre-trained model; it is copied or used up.

    Raises:
        ValueError: annotations are faulty, or do not fit the task.
    """
    build = {"retrieval": _retrieval, "classification": _classification, "qa": _answering}
    return build[config.task](config, model)


def _retrieval(config: FinetuneConfig, model: SimVTP) -> Task:
    tokenizer = _require_tokenizer(model)
    forms: dict[str, str] = {}

    def load(path: str, **settings: Any) -> Sequence[ClipRecord]:
        data = config.data
        named = {"columns": data.columns, "follow_links": data.follow_links}
        records = load_retrieval(path, **named, **settings)
        forms[path] = getattr(records, "form", "")
        return records

    splits: dict[str, Sequence[ClipRecord]] = read_splits(
        config,
        load,
        pick=lambda records, numbers: [records[number] for number in numbers],
        groups=lambda records: [0] * len(records),
        names=lambda records: {},
        records=lambda records: records,
    )
    if len(splits["train"]) < 2:
        raise ValueError(
            f"{config.data.train}: telling captions apart takes two videos to train on or more, "
            f"got {len(splits['train'])}"
        )
    model = with_text_encoder(model, config)
    special = special_token_ids(tokenizer)
    collate = Collator(
        TubeMasker(model.config.grid, ratio=config.tune.video_ratio),
        text_masker=TextMasker(special.mask, special_ids=list(special), ratio=0.0),
    )
    dataset = ClipDataset(
        splits["train"],
        tokenizer=tokenizer,
        max_text_length=model.config.max_text_length,
        num_noise=collate.num_noise(max_text_length=model.config.max_text_length),
        **_reading(config, model),
    )

    def measure(tuned: SimVTP, split: str) -> Figures:
        return measure_retrieval(
            tuned,
            splits[split],
            top=config.tune.rerank if split == "test" else 0,
            **_measuring(config, split),
        )

    return Task(
        _retrieval_objective(config, model),
        dataset,
        collate,
        measure,
        "t2v mean recall",
        lambda number: splits["train"][number].name,
        splits,
        {name: len(records) for name, records in splits.items()},
        forms[config.data.train],
    )


def _retrieval_objective(config: FinetuneConfig, model: SimVTP) -> Objective:
    """Contrast and, if asked for, matching; the parts of the model that neither uses are frozen."""
    tune = config.tune
    model.pixel_decoder.requires_grad_(False)
    model.word_decoder.requires_grad_(False)
    model.match_head.requires_grad_(tune.vtm_weight > 0)
    return Objective(
        model,
        pixel_weight=0.0,
        word_weight=0.0,
        vtc_weight=tune.vtc_weight,
        vtm_weight=tune.vtm_weight,
        contrast=ContrastiveLoss(
            temperature=tune.temperature,
            negatives_over=tune.negatives_over,
            memory=FeatureMemory(tune.memory, width=model.config.width) if tune.memory else None,
        ),
        # No word is masked, so both kinds of caption are one, embedded once.
        contrast_text="masked",
    )


def with_text_encoder(model: SimVTP, config: FinetuneConfig) -> SimVTP:
    """The model, with a copy of its encoder for captions if the settings ask for one."""
    if config.tune.text_encoder == model.config.text_encoder:
        return model
    if config.tune.text_encoder == "shared":
        raise ValueError("the model has an encoder of its own for captions; set text_encoder own")
    sizes = replace(model.config, text_encoder="own")
    weights = model.state_dict()
    own = {f"text_{name}": value for name, value in weights.items() if name.startswith("encoder.")}
    parts: ModelParts = {}
    if "encoder" in model.own_parts:
        parts["text_encoder"] = deepcopy(model.encoder)
    return model.rebuilt(sizes, weights=weights | own, **parts)


def _classification(config: FinetuneConfig, model: SimVTP) -> Task:
    splits: dict[str, LabelledClips] = read_splits(
        config,
        load_labelled,
        pick=lambda clips, numbers: clips._replace(
            records=[clips.records[number] for number in numbers],
            labels=clips.labels[list(numbers)],
        ),
        groups=lambda clips: clips.labels.tolist(),
        names=lambda clips: {"classes": clips.classes},
        records=lambda clips: clips.records,
    )
    classes, labels = splits["train"].classes, splits["train"].labels
    if len(set(labels.tolist())) < 2:
        raise ValueError(
            f"{config.data.train}: all {len(labels)} videos to train on have the class "
            f"{classes[labels[0]]!r}; telling classes apart takes two or more"
        )
    classifier = VideoClassifier.from_model(model, classes=classes)
    train_parts(classifier, "all" if config.tune.train_parts == "all" else "head")
    augment = config.augment
    mix = None
    if augment.mixup or augment.cutmix:
        mix = MixAugment(mixup_alpha=augment.mixup, cutmix_alpha=augment.cutmix)

    def measure(tuned: VideoClassifier, split: str) -> Figures:
        return measure_classes(
            tuned, splits[split], train=splits["train"], **_measuring(config, split)
        )

    return Task(
        ClassificationObjective(classifier),
        LabelledDataset(splits["train"], **_reading(config, model)),
        LabelledCollator(len(classes), label_smoothing=augment.label_smoothing, mix=mix),
        measure,
        "top-1",
        lambda number: splits["train"].records[number].name,
        splits,
        {name: len(clips.records) for name, clips in splits.items()},
    )


def _answering(config: FinetuneConfig, model: SimVTP) -> Task:
    tokenizer = _require_tokenizer(model)

    def load(path: str, **options: Any) -> QuestionSet:
        return load_questions(path, num_answers=config.data.num_answers, **options)

    splits: dict[str, QuestionSet] = read_splits(
        config,
        load,
        pick=_questions_about,
        groups=lambda questions: [0] * len(questions.records),
        names=lambda questions: {"answers": questions.answers},
        records=lambda questions: questions.records,
    )
    train = with_known_answers(splits["train"])
    if max(len(train.answers), train.num_options) < 2:
        raise ValueError(
            f"{config.data.train}: its questions have one answer to choose from; answering takes "
            "two or more"
        )
    answerer = VideoAnswerer.from_model(model, answers=train.answers)
    train_parts(answerer, "all" if config.tune.train_parts == "all" else "head")

    def measure(tuned: VideoAnswerer, split: str) -> Figures:
        return measure_answers(tuned, splits[split], train=train, **_measuring(config, split))

    return Task(
        AnsweringObjective(answerer),
        QuestionDataset(
            train,
            tokenizer=tokenizer,
            max_text_length=model.config.max_text_length,
            **_reading(config, model),
        ),
        QuestionCollator(),
        measure,
        "accuracy",
        lambda number: train.records[train.questions[number].clip].name,
        splits,
        {name: len(questions.questions) for name, questions in splits.items()},
    )


def _questions_about(questions: QuestionSet, numbers: Sequence[int]) -> QuestionSet:
    places = {number: place for place, number in enumerate(numbers)}
    kept = [
        question._replace(clip=places[question.clip])
        for question in questions.questions
        if question.clip in places
    ]
    records = [questions.records[number] for number in numbers]
    return questions._replace(records=records, questions=tuple(kept))


def _require_tokenizer(model: SimVTP) -> Tokenizer:
    if model.tokenizer is None:
        raise ValueError("the model has no tokenizer to read text with; add a tokenizer.json")
    return model.tokenizer


def _reading(config: FinetuneConfig, model: SimVTP) -> dict[str, Any]:
    augment, data = config.augment, config.data
    return {
        "num_frames": model.config.num_frames,
        "spacing": model.frame_spacing,
        "transform": ClipAugment(
            model.config.image_size,
            scale=augment.crop_scale,
            flip_probability=augment.flip_probability,
            num_operations=augment.num_operations,
            magnitude=augment.magnitude,
            erase_probability=augment.erase_probability,
        ),
        "seed": config.run.seed,
        "quarantine": Path(config.run.out) / "quarantine.jsonl",
        "max_bad_share": data.max_bad_share,
        "time_limit": data.clip_seconds,
    }


def _measuring(config: FinetuneConfig, split: str) -> dict[str, Any]:
    """How a split is measured: the test once, with several views of a video and intervals."""
    data, is_test = config.data, split == "test"
    return {
        "views": (data.test_clips, data.test_crops) if is_test else (1, 1),
        "num_samples": _RESAMPLES if is_test else 0,
        "num_workers": data.num_workers,
        "quarantine": Path(config.run.out) / "quarantine.jsonl",
    }
