"""Pre-norm transformer blocks, shared by the encoder and the decoders."""

from torch import Tensor, nn

from simvtp.layers.attention import Attend, Attention


class Block(nn.Module):
    """Pre-norm transformer block: attention, then a feed-forward layer with exact GELU.

    Args:
        width: width of the tokens.
        num_heads: attention heads.
        mlp_ratio: hidden width of the feed-forward layer over `width`.
    """

    def __init__(self, width: int, *, num_heads: int, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width, eps=1e-6)
        self.attention = Attention(width, num_heads=num_heads)
        self.mlp_norm = nn.LayerNorm(width, eps=1e-6)
        hidden = round(width * mlp_ratio)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, tokens: Tensor, attend: Attend) -> Tensor:
        """Transform tokens `(..., tokens, width)`; `attend` knows their layout."""
        tokens = tokens + self.attention(self.attention_norm(tokens), attend)
        return tokens + self.mlp(self.mlp_norm(tokens))


class Transformer(nn.Module):
    """A stack of blocks and a final LayerNorm (FACTS 1.11).

    Args:
        width: width of the tokens.
        depth: number of blocks; 0 leaves only the LayerNorm.
        num_heads: attention heads.
        mlp_ratio: hidden width of the feed-forward layers over `width`.
    """

    def __init__(self, width: int, *, depth: int, num_heads: int, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            Block(width, num_heads=num_heads, mlp_ratio=mlp_ratio) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, tokens: Tensor, attend: Attend) -> Tensor:
        """Transform tokens `(..., tokens, width)`; `attend` knows their layout."""
        for block in self.blocks:
            tokens = block(tokens, attend)
        return self.norm(tokens)


def initialize(module: nn.Module) -> None:
    """Xavier-uniform weights and zero biases for every linear layer below `module` (FACTS 1.20)."""
    for child in module.modules():
        if isinstance(child, nn.Linear):
            nn.init.xavier_uniform_(child.weight)
            if child.bias is not None:
                nn.init.zeros_(child.bias)
