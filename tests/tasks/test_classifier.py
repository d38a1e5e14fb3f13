import copy
import math

import pytest
import torch

from benchmarks.reference import encode, visible_tokens
from simvtp.config import FrameSpacing
from simvtp.layers import set_drop_path
from simvtp.tasks import ClassificationObjective, LabelledBatch, VideoClassifier, train_parts
from simvtp.training import build_optimizer

CLASSES = ("left", "right", "up")


@pytest.fixture
def classifier(pretrained):
    torch.manual_seed(1)
    classifier = VideoClassifier.from_model(pretrained, classes=CLASSES)
    torch.nn.init.normal_(classifier.head.weight)
    torch.nn.init.normal_(classifier.head.bias)
    return classifier


@pytest.fixture
def batch(clips):
    generator = torch.Generator().manual_seed(5)
    targets = torch.rand(len(clips), len(CLASSES), generator=generator)
    targets = targets / targets.sum(dim=1, keepdim=True)
    return LabelledBatch(clips, targets, torch.arange(len(clips)))


def expected_logits(model, head, clips):
    """From the formulas, and from the pre-trained model's own weights."""
    weights = dict(model.named_parameters())
    nothing_hidden = torch.zeros(len(clips), model.config.num_video_tokens, dtype=torch.bool)
    video = visible_tokens(model, weights, clips, nothing_hidden)
    pooled = encode(model, weights, video, None, None).mean(dim=1)
    return pooled @ head.weight.T + head.bias


def test_logits_are_those_of_the_formulas(pretrained, classifier, clips):
    logits = classifier(clips)
    assert logits.shape == (4, 3)
    expected = expected_logits(pretrained, classifier.head, clips)
    torch.testing.assert_close(logits, expected, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(classifier.classify(clips), expected.softmax(dim=1))


def test_nothing_is_shared_with_the_pretrained_model(pretrained, classifier, clips):
    own = {parameter.data_ptr() for parameter in classifier.parameters()}
    assert own.isdisjoint(parameter.data_ptr() for parameter in pretrained.parameters())
    before = copy.deepcopy(pretrained.state_dict())
    with torch.no_grad():
        for parameter in classifier.parameters():
            parameter.zero_()
    assert all(torch.equal(before[name], now) for name, now in pretrained.state_dict().items())
    assert classifier.frame_spacing == FrameSpacing(stride=3)


def test_a_frozen_model_can_be_fine_tuned(pretrained):
    frozen = copy.deepcopy(pretrained).requires_grad_(False)
    classifier = VideoClassifier.from_model(frozen, classes=CLASSES)
    assert classifier.training
    assert all(parameter.requires_grad for parameter in classifier.parameters())


def test_views_are_averaged_as_probabilities(classifier, clips):
    views = torch.stack([clips, clips.flip(0), clips.roll(1, 0)], dim=1)
    mean = classifier.classify_views(views)
    for video, got in zip(views, mean, strict=True):
        chances = [classifier.classify(view[None])[0] for view in video]
        torch.testing.assert_close(got, sum(chances) / 3)
    with pytest.raises(ValueError, match=r"views must be a tensor .batch, views, frames"):
        classifier.classify_views(clips)


def test_loss_is_the_cross_entropy_with_soft_targets(classifier, batch):
    losses = ClassificationObjective(classifier)(batch)
    total, hits = 0.0, 0
    for logits, targets in zip(classifier(batch.video).tolist(), batch.targets, strict=True):
        log_sum = math.log(sum(math.exp(logit) for logit in logits))
        total -= sum(t * (x - log_sum) for t, x in zip(targets.tolist(), logits, strict=True))
        hits += logits.index(max(logits)) == targets.argmax().item()
    assert losses.total.item() == pytest.approx(total / len(batch.video), rel=1e-6)
    assert losses.terms["cross_entropy"].item() == losses.total.item()
    assert losses.terms["accuracy"].item() == hits / len(batch.video)


def test_every_weight_of_a_classifier_learns(classifier, batch):
    ClassificationObjective(classifier)(batch).total.backward()
    for name, parameter in classifier.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_a_frozen_encoder_is_left_alone(classifier, batch):
    train_parts(classifier, "head")
    objective = ClassificationObjective(classifier).train()
    set_drop_path(classifier, 0.5)
    assert not classifier.encoder.training
    assert not classifier.video_embedding.training
    assert classifier.head.training
    modes = []
    hook = classifier.encoder.transformer.register_forward_hook(
        lambda *_: modes.append(torch.is_grad_enabled())
    )
    features = classifier.features(batch.video)
    hook.remove()
    # Not only without gradients: blocks that recompute would otherwise still set that up.
    assert modes == [False]
    assert not features.requires_grad
    assert torch.equal(features, classifier.features(batch.video))
    objective(batch).total.backward()
    learning = {name for name, each in classifier.named_parameters() if each.grad is not None}
    assert learning == {"head.weight", "head.bias"}
    settings = {"lr": 1e-3, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.0}
    optimizer = build_optimizer(objective, **settings)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 2
    train_parts(classifier, "all")
    assert classifier.encoder.training
    assert not classifier.is_backbone_frozen
    assert classifier.features(batch.video).requires_grad


def test_training_draws_drop_path_and_evaluation_does_not(classifier, clips):
    set_drop_path(classifier, 0.5)
    torch.manual_seed(0)
    assert not torch.equal(classifier.train().features(clips), classifier.features(clips))
    classifier.eval()
    assert torch.equal(classifier.features(clips), classifier.features(clips))


def test_losses_are_float32_in_half_precision(pretrained, batch):
    classifier = VideoClassifier.from_model(copy.deepcopy(pretrained).float(), classes=CLASSES)
    with torch.autocast("cpu", torch.bfloat16):
        losses = ClassificationObjective(classifier)(batch)
    assert losses.total.dtype == torch.float32
    exact = ClassificationObjective(classifier)(batch).total
    torch.testing.assert_close(losses.total, exact, rtol=0.05, atol=0.02)


def test_the_host_reads_no_value_of_a_step(classifier, batch):
    """On the meta device there is none to read: a step that waited for one would raise."""
    losses = ClassificationObjective(classifier.to("meta"))(batch.to(torch.device("meta")))
    losses.total.backward()
    assert all(each.grad is not None for each in classifier.parameters())


def test_clips_of_two_kinds_are_told_apart(pretrained):
    """Real steps: dark clips and bright ones."""
    torch.manual_seed(0)
    classifier = VideoClassifier.from_model(
        copy.deepcopy(pretrained).float(), classes=("dark", "bright")
    )
    labels = torch.arange(8) % 2
    noise = torch.randint(0, 100, (8, 4, 3, 16, 16))
    video = (noise + 120 * labels.view(-1, 1, 1, 1, 1)).to(torch.uint8)
    batch = LabelledBatch(video, torch.eye(2)[labels], torch.arange(8))
    objective = ClassificationObjective(classifier)
    optimizer = torch.optim.AdamW(objective.parameters(), lr=3e-3)
    for _ in range(60):
        losses = objective(batch)
        losses.total.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses.terms["accuracy"] == 1
    assert losses.total < 0.2


@pytest.mark.parametrize("classes", [(), ("a", "b", "a"), "abc"])
def test_class_names_must_be_some_and_different(pretrained, classes):
    with pytest.raises(ValueError, match="classes must be one or more different names"):
        VideoClassifier.from_model(pretrained, classes=classes)


def test_unknown_parts_are_refused(classifier):
    with pytest.raises(ValueError, match="all or head, got 'encoder'"):
        train_parts(classifier, "encoder")
