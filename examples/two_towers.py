"""VTC and VTM in a two-tower model of one's own; under torchrun the negatives are of all ranks."""

import torch
from torch import Tensor, nn

from simvtp.layers import gather_rows
from simvtp.losses import ContrastiveLoss, match_loss, sample_negatives

WORDS, SIZE = 64, 16


class TwoTowers(nn.Module):
    """Two encoders, whatever they are, and a head that looks at a pair of features."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        cut = nn.Conv3d(3, width, kernel_size=(2, 8, 8), stride=(2, 8, 8))
        pool = nn.Sequential(nn.GELU(), nn.AdaptiveAvgPool3d(1), nn.Flatten())
        self.video = nn.Sequential(cut, pool, nn.Linear(width, width))
        self.text = nn.Sequential(nn.EmbeddingBag(WORDS, width), nn.Linear(width, width))
        self.match = nn.Sequential(nn.Linear(3 * width, width), nn.GELU(), nn.Linear(width, 2))
        self.contrast = ContrastiveLoss(temperature=0.1, learn=True)

    def forward(self, clips: Tensor, captions: Tensor) -> dict[str, Tensor]:
        """Both losses of `(batch, 3, frames, height, width)` clips and `(batch, words)` ids."""
        video, text = self.video(clips), self.text(captions)
        contrast = self.contrast(video, text)
        # Without keys all pairs are negatives of each other, those of other ranks too.
        negatives = sample_negatives(
            similarity=contrast.similarity, temperature=self.contrast.temperature.detach()
        )
        others = gather_rows(video)[negatives.videos]
        positives, unmatched = (
            self.match(torch.cat([clip, text, clip * text], dim=1)) for clip in (video, others)
        )
        return {"vtc": contrast.loss, "vtm": match_loss(positives, unmatched)}


def main() -> list[float]:
    """Losses of a short training on clips whose colours are told by their captions' words."""
    torch.manual_seed(0)
    model, colours = TwoTowers(), torch.randn(WORDS, 3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        captions = torch.randperm(WORDS)[:16, None]
        clips = colours[captions[:, 0]][:, :, None, None, None] + 0.1 * torch.randn(
            16, 3, 4, SIZE, SIZE
        )
        total = torch.stack(list(model(clips, captions).values())).sum()
        total.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total.item())
    return losses


if __name__ == "__main__":
    print(f"loss {(found := main())[0]:.2f} -> {found[-1]:.2f}")
