"""Questions about videos, answered by the encoder over [video ; question]."""

from collections.abc import Sequence
from typing import Self, Unpack

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional

from simvtp.config import DEFAULT_SPACING, FrameSpacing, ModelConfig
from simvtp.data.captions import caption_list
from simvtp.data.datasets.tasks import Question, encode_question
from simvtp.encoders import encode_pairs
from simvtp.layers import (
    PackedLayout,
    PackedTokens,
    clips_on,
    full_precision,
    mean_count,
    pack,
    require_packed,
    to_device,
)
from simvtp.losses import Losses
from simvtp.model import SimVTP
from simvtp.parts import ModelParts
from simvtp.tasks.batches import QuestionBatch, check_smoothing
from simvtp.tasks.task_model import TaskModel, check_names


class VideoAnswerer(
    TaskModel,
    library_name="simvtp",
    tags=["visual-question-answering"],
):
    """Answers a question about a clip: openly, out of known answers, or by choosing an option.

    An open question is one sequence [clip ; question], whose mean gives a logit for each known
    answer. With options each one makes a sequence [clip ; question, option] and gets one logit.

    Args:
        config: sizes of the pre-trained model.
        answers: known answers, in the order of their numbers; none for questions with options.
        tokenizer: turns questions into token ids; without one only ids are taken.
        frame_spacing: time or frames of the source video between two frames of a clip.
        **parts: parts of one's own, as for `TaskModel`.

    Raises:
        ValueError: an answer occurs twice, or a part does not fit.
    """

    task = "answering"
    part_names = ("video_embedding", "encoder", "text_embedding")

    def __init__(
        self,
        config: ModelConfig,
        *,
        answers: Sequence[str] = (),
        tokenizer: Tokenizer | None = None,
        frame_spacing: FrameSpacing = DEFAULT_SPACING,
        **parts: Unpack[ModelParts],
    ) -> None:
        known = check_names("answers", answers) if answers else ()
        num_outputs = max(1, len(known))
        super().__init__(config, num_outputs=num_outputs, frame_spacing=frame_spacing, **parts)
        self.answers = known
        self.tokenizer = tokenizer

    @property
    def usage(self) -> str:
        """Lines of Python for the model card."""
        clip = 'clip = read_video("clip.mp4", model)'
        if self.answers:
            return f'{clip}\nmodel.answers[model.answer(clip, "what does the dog do").argmax()]'
        return f'{clip}\nmodel.answer(clip, "who runs", options=[["a dog", "a cat"]])  # (1, 2)'

    @classmethod
    def from_model(cls, model: SimVTP, *, answers: Sequence[str] = ()) -> Self:
        """A pre-trained model with a new head, in training mode; they share no weights.

        Raises:
            ValueError: an answer occurs twice.
        """
        return cls._of(model, answers=answers, tokenizer=model.tokenizer)

    def forward(self, video: Tensor, text: PackedTokens) -> Tensor:
        """Logits of the answers.

        Args:
            video: `(batch, frames, channels, height, width)` uint8.
            text: token ids `(text_tokens,)` on the model's device: a question per clip or, where
                the model chooses, each question with each of its options in turn.

        Returns:
            `(batch, answers)`, or `(batch, options)`.

        Raises:
            ValueError: the number of texts does not go with that of the clips, or a clip is not
                uint8 or not of the model's size.
        """
        logits = self.head(self.features(video, text))
        return logits if self.answers else logits.view(len(video), -1)

    def features(self, video: Tensor, text: PackedTokens) -> Tensor:
        """What the head sees: `(texts, width)`, at least float32; arguments as for `forward`."""
        require_packed("text", text)
        video = clips_on(video, self.device)
        texts_per_clip = self._texts_per_clip(len(video), text.layout.num_sequences)
        with self.backbone_gradients():
            clips = self.video_embedding(video)
            words = self.text_embedding(text.values, text.layout.positions)
            pairs = PackedTokens(words, text.layout)
            encoded, _ = encode_pairs(self.encoder, clips, pairs, texts_per_clip=texts_per_clip)
            return self.encoder.pool(encoded)

    def answer(
        self,
        video: Tensor,
        questions: str | Sequence[str],
        *,
        options: Sequence[Sequence[str]] | None = None,
    ) -> Tensor:
        """Probabilities of the answers.

        Args:
            video: `(batch, frames, channels, height, width)` uint8.
            questions: one per clip.
            options: for each question as many possible answers, where the model chooses.

        Returns:
            `(batch, answers)` in the order of `answers`, or `(batch, options)`; at least float32.

        Raises:
            ValueError: there is no tokenizer, the numbers of clips, questions and options do not
                go together, or a clip is not uint8 or not of the model's size.
        """
        text = self.pack_questions(questions, options=options)
        return full_precision(self(video, text)).softmax(dim=-1)

    def answer_views(
        self,
        views: Tensor,
        questions: Sequence[str],
        *,
        options: Sequence[Sequence[str]] | None = None,
    ) -> Tensor:
        """Probabilities of the answers about one video, the mean over several views of it.

        Args:
            views: `(views, frames, channels, height, width)` uint8.
            questions: one or more about the video.
            options: as for `answer`.

        Returns:
            `(questions, answers)`, or `(questions, options)`; at least float32.

        Raises:
            ValueError: as for `answer`.
        """
        each = [
            self.answer(view.expand(len(questions), *view.shape), questions, options=options)
            for view in views
        ]
        return torch.stack(each).mean(dim=0)

    def pack_questions(
        self, questions: str | Sequence[str], *, options: Sequence[Sequence[str]] | None = None
    ) -> PackedTokens:
        """Token ids of questions, with their options, as `forward` takes them.

        Raises:
            ValueError: there is no tokenizer, no question, or not as many options for each.
        """
        if self.tokenizer is None:
            raise ValueError(
                "the model has no tokenizer, so it takes token ids only; load it from a folder "
                "with a tokenizer.json or pass tokenizer= when building it"
            )
        listed = caption_list(questions, name="questions")
        self._check_options(listed, options)
        chosen = [()] * len(listed) if options is None else options
        sequences = [
            ids
            for text, among in zip(listed, chosen, strict=True)
            for ids in encode_question(
                Question(clip=0, text=text, answer=-1, options=tuple(among)),
                self.tokenizer,
                max_length=self.config.max_text_length,
            )
        ]
        packed = pack(sequences)
        layout = PackedLayout(packed.layout.lengths, self.device)
        return PackedTokens(to_device(packed.values, self.device), layout)

    def _texts_per_clip(self, num_clips: int, num_texts: int) -> int:
        if self.answers and num_texts != num_clips:
            raise ValueError(
                f"there must be one question per clip, got {num_texts} for {num_clips} clips; "
                "repeat the clips"
            )
        if num_clips == 0 or num_texts % num_clips:
            raise ValueError(
                f"each clip's question needs as many options, got {num_texts} texts for "
                f"{num_clips} clips"
            )
        return num_texts // num_clips

    def _check_options(
        self, questions: Sequence[str], options: Sequence[Sequence[str]] | None
    ) -> None:
        if options is None:
            if not self.answers:
                raise ValueError("the model chooses among options, so give options= for each clip")
            return
        if self.answers:
            raise ValueError("the model has answers of its own to choose from; leave options out")
        counts = [
            0 if isinstance(among, str) or not among else len(caption_list(among, name="options"))
            for among in options
        ]
        if len(counts) != len(questions) or len(set(counts)) != 1 or counts[0] == 0:
            raise ValueError(
                f"each of the {len(questions)} questions needs a list of as many options, got "
                f"lists of {counts}"
            )


class AnsweringObjective(nn.Module):
    """Cross-entropy of questions against their right answers or options.

    Questions without a known right answer (-1) count nowhere.

    Args:
        answerer: the model to train; kept as `model`.
        label_smoothing: share of each target that is spread evenly over all answers.

    Raises:
        ValueError: the smoothing is no share below 1.
    """

    def __init__(self, answerer: VideoAnswerer, *, label_smoothing: float = 0.0) -> None:
        super().__init__()
        check_smoothing(label_smoothing)
        self.model = answerer
        self.label_smoothing = label_smoothing

    def forward(self, batch: QuestionBatch, *, generator: torch.Generator | None = None) -> Losses:
        """Losses of a batch on the model's device.

        Args:
            batch: the batch.
            generator: not used, nothing is drawn but dropout.

        Returns:
            Terms `cross_entropy` and `accuracy`, means over the questions with a known answer,
            over all ranks'; 0 where there is none. The total is the first.
        """
        logits = full_precision(self.model(batch.video, batch.text))
        total = functional.cross_entropy(
            *(logits, batch.answers),
            ignore_index=-1,
            reduction="sum",
            label_smoothing=self.label_smoothing,
        )
        # Its value stays on the device: a batch without a known answer divides 0 by a bit more.
        count = mean_count((batch.answers >= 0).sum()).clamp(min=1e-6)
        hits = (logits.detach().argmax(dim=1) == batch.answers).sum()
        loss = total / count
        return Losses(total=loss, terms={"cross_entropy": loss, "accuracy": hits / count})

    def flops(self, batch: QuestionBatch) -> float | None:
        """Operations of a step on the batch by formula, as `TaskModel.flops`."""
        tokens = self.model.config.num_video_tokens
        sequences = [tokens + length for length in batch.text_lengths]
        return self.model.flops(num_clips=len(batch.video), sequences=sequences)
