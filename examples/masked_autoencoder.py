"""`TubeMasker` in a masked autoencoder of one's own, made of torch's transformer layers."""

import torch
from torch import Tensor, nn

from simvtp.losses import pixel_loss, pixel_targets
from simvtp.masking import TubeMasker

GRID, TUBELET, VALUES = (4, 4, 4), (2, 8, 8), 2 * 8 * 8 * 3


class MaskedAutoencoder(nn.Module):
    """An encoder of the visible tubelets and a decoder that guesses the others."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.masker = TubeMasker(GRID, ratio=0.75)
        self.embed, self.head = nn.Linear(VALUES, width), nn.Linear(width, VALUES)
        self.positions = nn.Parameter(0.02 * torch.randn(GRID[0] * GRID[1] * GRID[2], width))
        self.hidden = nn.Parameter(torch.zeros(width))
        layer = nn.TransformerEncoderLayer(
            width, 4, 4 * width, dropout=0.0, batch_first=True, norm_first=True
        )
        self.encoder, self.decoder = (
            nn.TransformerEncoder(layer, depth, enable_nested_tensor=False) for depth in (2, 1)
        )

    def forward(self, clips: Tensor) -> Tensor:
        """Error of the hidden tubelets of `(batch, frames, 3, height, width)` uint8 clips."""
        mask = self.masker(len(clips))
        visible = pixel_targets(clips, mask.keep, tubelet=TUBELET, target="raw")
        encoded = self.encoder(self.embed(visible) + self.positions[mask.keep])
        hidden = self.hidden + self.positions[mask.drop]
        decoded = self.decoder(torch.cat([encoded, hidden], dim=1))[:, mask.keep.shape[1] :]
        targets = pixel_targets(clips, mask.drop, tubelet=TUBELET, target="raw")
        return pixel_loss(self.head(decoded), targets)


def main() -> list[float]:
    """Losses of a short training on clips of one colour each."""
    torch.manual_seed(0)
    model = MaskedAutoencoder()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    losses = []
    for _ in range(60):
        colours = torch.randint(0, 256, (8, 1, 3, 1, 1), dtype=torch.uint8)
        loss = model(colours.expand(8, 8, 3, 32, 32))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


if __name__ == "__main__":
    print(f"loss {(found := main())[0]:.3f} -> {found[-1]:.3f}")
