"""A loss term of one's own: a clip's feature is to say what a frozen teacher sees in the clip."""

import torch
from torch import Tensor, nn

from simvtp import ExtraTerm, ModelConfig, Objective, SimVTP, StepFeatures
from simvtp.batch import Batch, Collator
from simvtp.data import Sample
from simvtp.losses import distillation_loss
from simvtp.masking import TextMasker, TubeMasker

CONFIG = ModelConfig.preset("tiny", num_frames=4, image_size=32, width=32, vocab_size=100)


class Distillation(nn.Module):
    """The term; its projection to the teacher's width is trained with the model."""

    def __init__(self, teacher: nn.Module, *, width: int) -> None:
        super().__init__()
        self.projection = nn.Linear(CONFIG.width, width)
        # A function: a module within would be saved with the objective, and put in training mode.
        self.teach = lambda clips: teacher(clips.transpose(1, 2).float() / 255).mean(dim=(2, 3, 4))

    def forward(self, features: StepFeatures) -> Tensor:
        """The teacher sees the whole clip, the model a part; its tokens: `features.tubelets`."""
        seen = self.projection(features.pooled_video)
        return distillation_loss(seen, self.teach(features.batch.video))


def draw(collate: Collator, count: int = 8) -> Batch:
    """Clips of one colour each with captions of random words."""
    video = torch.randint(0, 256, (count, 1, 3, 1, 1), dtype=torch.uint8).expand(-1, 4, 3, 32, 32)
    ids, words, noise = torch.randint(5, 100, (count, 6)), torch.arange(6), torch.rand(count, 16)
    return collate([Sample(video[n], ids[n], words, noise[n], "", n) for n in range(count)])


def main() -> list[float]:
    """The term in a short training; the trainer takes the objective as it is, too."""
    torch.manual_seed(0)
    words = TextMasker(4, special_ids=range(5))
    collate = Collator(TubeMasker(CONFIG.grid, ratio=0.5), text_masker=words)
    teacher = nn.Conv3d(3, 12, (2, 16, 16), (2, 16, 16)).eval().requires_grad_(False)
    term = ExtraTerm(4.0, Distillation(teacher, width=12), needs=("video",))
    objective = Objective(SimVTP.from_config(CONFIG), extra_terms={"distill": term})
    optimizer, distances = torch.optim.AdamW(objective.parameters(), lr=2e-3), []
    for _ in range(40):
        optimizer.zero_grad()
        losses = objective(draw(collate))
        losses.total.backward()
        optimizer.step()
        distances.append(losses.terms["distill"].item())
    return distances


if __name__ == "__main__":
    print(f"distance {(found := main())[0]:.3f} -> {found[-1]:.3f}")
