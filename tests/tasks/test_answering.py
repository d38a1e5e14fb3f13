import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.reference import embed_text, encode, visible_tokens
from simvtp.data.datasets.tasks import QuestionSample
from simvtp.layers import pack, set_drop_path
from simvtp.tasks import AnsweringObjective, QuestionCollator, VideoAnswerer, train_parts
from testing.sample_batches import CLS, SEP, small_model

ANSWERS = ("left", "three", "a dog", "red", "two")
QUESTIONS = ["what moves left", "how many dogs run in the red circle", "who", "what spins"]


def with_large_head(answerer):
    for parameter in answerer.head.parameters():
        torch.nn.init.normal_(parameter)
    return answerer


@pytest.fixture
def open_answerer(pretrained):
    torch.manual_seed(1)
    return with_large_head(VideoAnswerer.from_model(pretrained, answers=ANSWERS))


@pytest.fixture
def chooser(pretrained):
    torch.manual_seed(1)
    return with_large_head(VideoAnswerer.from_model(pretrained))


def expected_outputs(model, head, clip, ids):
    """Outputs for one clip and one text, from the formulas and the pre-trained model's weights."""
    weights = dict(model.named_parameters())
    nothing_hidden = torch.zeros(1, model.config.num_video_tokens, dtype=torch.bool)
    video = visible_tokens(model, weights, clip[None], nothing_hidden)
    real = torch.ones(1, len(ids), dtype=torch.bool)
    joint = encode(model, weights, video, embed_text(weights, ids[None]), real)
    return (joint.mean(dim=1) @ head.weight.T + head.bias)[0]


def samples_of(lengths, answers, *, seed=0):
    """Questions about random clips, `lengths[i][j]` words in option j of question i."""
    generator = torch.Generator().manual_seed(seed)

    def text(length):
        return torch.tensor([CLS, *torch.randint(5, 30, (length,), generator=generator), SEP])

    def clip():
        return torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8, generator=generator)

    return [
        QuestionSample(clip(), tuple(text(length) for length in each), answer, index)
        for index, (each, answer) in enumerate(zip(lengths, answers, strict=True))
    ]


def test_an_open_question_is_answered_as_the_formulas_say(pretrained, open_answerer, clips):
    chances = open_answerer.answer(clips, QUESTIONS)
    assert chances.shape == (4, len(ANSWERS))
    for clip, question, got in zip(clips, QUESTIONS, chances, strict=True):
        ids = torch.tensor(pretrained.tokenizer.encode(question).ids)
        expected = expected_outputs(pretrained, open_answerer.head, clip, ids).softmax(dim=0)
        torch.testing.assert_close(got, expected, rtol=1e-7, atol=1e-7)


def test_options_are_scored_as_one_by_one(pretrained, chooser, clips):
    options = [
        ("left", "a red circle"),
        ("three dogs", "two"),
        ("it", "he runs"),
        ("dogs", "a dog"),
    ]
    chances = chooser.answer(clips, QUESTIONS, options=options)
    assert chances.shape == (4, 2)
    tokenizer = pretrained.tokenizer
    for clip, question, among, got in zip(clips, QUESTIONS, options, chances, strict=True):
        # [CLS] question [SEP] option [SEP]
        texts = [tokenizer.encode(question).ids + tokenizer.encode(one).ids[1:] for one in among]
        scores = [
            expected_outputs(pretrained, chooser.head, clip, torch.tensor(ids)) for ids in texts
        ]
        expected = torch.cat(scores).softmax(dim=0)
        torch.testing.assert_close(got, expected, rtol=1e-7, atol=1e-7)


def test_sharing_a_clip_among_options_changes_no_gradient(chooser):
    batch = QuestionCollator()(samples_of([[3, 9, 5], [2, 4, 4]], [0, 2]))
    chooser.eval()
    sizes = []
    hook = chooser.video_embedding.register_forward_hook(
        lambda module, inputs, output: sizes.append(output.shape)
    )
    loss = AnsweringObjective(chooser)(batch).total
    hook.remove()
    # Each clip is embedded once, not once per option.
    assert sizes == [(2, 32, 16)]
    loss.backward()
    together = {name: each.grad.clone() for name, each in chooser.named_parameters()}
    chooser.zero_grad()
    texts = batch.token_ids.split(batch.text_lengths)
    losses = []
    for number, (clip, answer) in enumerate(zip(batch.video, batch.answers.tolist(), strict=True)):
        scores = [
            chooser(clip[None], pack([text]))[0, 0] for text in texts[3 * number : 3 * number + 3]
        ]
        losses.append(torch.stack(scores).logsumexp(dim=0) - scores[answer])
    alone = torch.stack(losses).mean()
    torch.testing.assert_close(loss, alone)
    alone.backward()
    for name, parameter in chooser.named_parameters():
        torch.testing.assert_close(together[name], parameter.grad, rtol=1e-7, atol=1e-9)


@settings(max_examples=15)
@given(
    lengths=st.integers(1, 3).flatmap(
        lambda options: st.lists(
            st.lists(st.integers(1, 20), min_size=options, max_size=options),
            min_size=1,
            max_size=4,
        )
    ),
    seed=st.integers(0, 9999),
)
def test_a_question_s_scores_do_not_depend_on_its_batch_mates(lengths, seed):
    torch.manual_seed(0)
    known = ANSWERS if len(lengths[0]) == 1 else ()
    model = small_model(max_text_length=24)
    answerer = with_large_head(VideoAnswerer.from_model(model, answers=known)).eval()
    collate = QuestionCollator()
    samples = samples_of(lengths, [0] * len(lengths), seed=seed)
    together = collate(samples)
    scores = answerer(together.video, together.text)
    assert scores.shape == (len(lengths), len(known) or len(lengths[0]))
    for number, got in zip(together.index.tolist(), scores, strict=True):
        alone = collate([samples[number]])
        expected = answerer(alone.video, alone.text)[0]
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


def manual_loss(logits, answers, smoothing):
    """Mean over the answered questions, number by number."""
    losses = []
    for row, answer in zip(logits.tolist(), answers, strict=True):
        if answer < 0:
            continue
        log_sum = math.log(sum(math.exp(logit) for logit in row))
        targets = [smoothing / len(row)] * len(row)
        targets[answer] += 1 - smoothing
        losses.append(-sum(t * (x - log_sum) for t, x in zip(targets, row, strict=True)))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_unanswerable_questions_teach_nothing(open_answerer, smoothing):
    batch = QuestionCollator()(samples_of([[3], [3], [3], [3]], [4, -1, 0, -1]))
    open_answerer.eval()
    objective = AnsweringObjective(open_answerer, label_smoothing=smoothing)
    losses = objective(batch)
    logits = open_answerer(batch.video, batch.text)
    expected = manual_loss(logits, batch.answers.tolist(), smoothing)
    assert losses.total.item() == pytest.approx(expected, rel=1e-6)
    assert losses.terms["cross_entropy"].item() == losses.total.item()
    hits = [logits[0].argmax().item() == 4, logits[2].argmax().item() == 0]
    assert losses.terms["accuracy"].item() == pytest.approx(sum(hits) / 2)
    answered = QuestionCollator()(samples_of([[3], [3], [3], [3]], [4, 1, 0, 1]))
    assert objective(answered).total.item() != pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("build", ["open_answerer", "chooser"])
def test_the_host_reads_no_value_of_a_step(request, build):
    """On the meta device there is none to read: a step that waited for one would raise."""
    answerer = request.getfixturevalue(build)
    texts = [3] if answerer.answers else [3, 6]
    batch = QuestionCollator()(samples_of([texts, texts], [0, -1]))
    losses = AnsweringObjective(answerer.to("meta"))(batch.to(torch.device("meta")))
    losses.total.backward()
    assert all(each.grad is not None for each in answerer.parameters())


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_a_batch_without_an_answer_gives_zero(open_answerer, smoothing):
    batch = QuestionCollator()(samples_of([[3], [7]], [-1, -1]))
    losses = AnsweringObjective(open_answerer, label_smoothing=smoothing)(batch)
    assert losses.total.item() == 0
    assert {name: term.item() for name, term in losses.terms.items()} == {
        "cross_entropy": 0,
        "accuracy": 0,
    }
    losses.total.backward()
    for name, parameter in open_answerer.named_parameters():
        assert parameter.grad is not None, name
        assert not parameter.grad.any(), name


def test_options_with_one_right_answer_use_the_same_loss(chooser):
    batch = QuestionCollator()(samples_of([[3, 4], [3, 4], [3, 4]], [1, -1, 0]))
    chooser.eval()
    logits = chooser(batch.video, batch.text)
    expected = manual_loss(logits, batch.answers.tolist(), 0.0)
    assert AnsweringObjective(chooser)(batch).total.item() == pytest.approx(expected, rel=1e-6)


def test_gradients_reach_all_weights_or_the_head_alone(open_answerer):
    batch = QuestionCollator()(samples_of([[3], [7]], [1, 3]))
    AnsweringObjective(open_answerer)(batch).total.backward()
    for name, parameter in open_answerer.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    open_answerer.zero_grad()
    train_parts(open_answerer, "head")
    AnsweringObjective(open_answerer)(batch).total.backward()
    learning = {name for name, each in open_answerer.named_parameters() if each.grad is not None}
    assert learning == {"head.weight", "head.bias"}


def test_dropout_and_drop_path_act_in_training_unless_frozen(open_answerer):
    batch = QuestionCollator()(samples_of([[9], [12], [7], [7], [5]], [1, 3, 0, 2, 4]))

    def repeats():
        torch.manual_seed(0)
        outputs = [open_answerer.features(batch.video, batch.text) for _ in range(2)]
        return torch.equal(*outputs)

    open_answerer.train()
    assert repeats()
    open_answerer.text_embedding.dropout.p = 0.5
    assert not repeats()
    open_answerer.text_embedding.dropout.p = 0.0
    set_drop_path(open_answerer, 0.5)
    assert not repeats()
    open_answerer.text_embedding.dropout.p = 0.5
    train_parts(open_answerer, "head")
    AnsweringObjective(open_answerer).train()
    assert repeats()
    train_parts(open_answerer, "all")
    AnsweringObjective(open_answerer).eval()
    assert repeats()


def test_nothing_is_shared_with_the_pretrained_model(pretrained, chooser):
    own = {parameter.data_ptr() for parameter in chooser.parameters()}
    assert own.isdisjoint(parameter.data_ptr() for parameter in pretrained.parameters())
    names = {name.partition(".")[0] for name in chooser.state_dict()}
    assert names == {"video_embedding", "text_embedding", "encoder", "head"}


def test_numbers_that_do_not_go_together_are_refused(pretrained, open_answerer, chooser, clips):
    with pytest.raises(ValueError, match="one question per clip, got 2 for 4 clips"):
        open_answerer.answer(clips, QUESTIONS[:2])
    with pytest.raises(ValueError, match="leave options out"):
        open_answerer.answer(clips, QUESTIONS, options=[["a", "b"]] * 4)
    with pytest.raises(ValueError, match="give options="):
        chooser.answer(clips, QUESTIONS)
    for options in ([["a", "b"]] * 3, [["a"], ["a", "b"], ["a"], ["a"]], [[]] * 4, ["ab"] * 4):
        with pytest.raises(ValueError, match="4 questions needs a list of as many options"):
            chooser.answer(clips, QUESTIONS, options=options)
    with pytest.raises(ValueError, match="got 3 texts for 2 clips"):
        chooser(clips[:2], pack([torch.tensor([CLS, 7, SEP])] * 3))
    without = copy.copy(open_answerer)
    without.tokenizer = None
    with pytest.raises(ValueError, match="no tokenizer"):
        without.answer(clips, QUESTIONS)
    with pytest.raises(ValueError, match="answers must be one or more different names"):
        VideoAnswerer.from_model(pretrained, answers=["a", "a"])
    with pytest.raises(ValueError, match="label_smoothing must lie in"):
        AnsweringObjective(chooser, label_smoothing=1.0)
