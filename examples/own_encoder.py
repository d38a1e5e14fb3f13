"""A ViT of transformers, which it needs, as SimVTP's encoder: trained, saved to OUT, loaded."""

import sys

import torch
from torch import Tensor, nn
from transformers import ViTConfig, ViTModel

from simvtp import ModelConfig, Objective, SimVTP
from simvtp.batch import Batch, Collator
from simvtp.data import Sample, encode_caption, special_token_ids, train_tokenizer
from simvtp.encoders import PaddedEncoder
from simvtp.masking import TextMasker, TubeMasker

CAPTIONS = ["a red ball rolls", "two blue squares jump", "nothing moves at all", "it turns"]


def encode(vit: nn.ModuleDict, tokens: Tensor, key_mask: Tensor) -> Tensor:
    """Blocks and last norm over `(batch, tokens, width)`; the mask is True where one is real."""
    for layer in vit["layers"]:
        tokens = layer(tokens, key_mask[:, None, None, :])
    return vit["norm"](tokens)


def vit_encoder() -> PaddedEncoder:
    """A small one; ViTModel.from_pretrained("google/vit-base-patch16-224") is as wide as "base"."""
    sizes = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    vit = ViTModel(ViTConfig(hidden_size=32, **sizes), add_pooling_layer=False)
    parts = nn.ModuleDict({"layers": vit.layers, "norm": vit.layernorm})
    return PaddedEncoder(parts, call=encode, blocks=list(vit.layers))


def batch_for(model: SimVTP) -> Batch:
    """Clips of noise with captions."""
    special = special_token_ids(model.tokenizer)
    masker = TextMasker(special.mask, special_ids=list(special), ratio=0.5)
    collate = Collator(TubeMasker(model.config.grid, ratio=0.75), text_masker=masker)
    video = torch.randint(0, 256, (4, 4, 3, 64, 64), dtype=torch.uint8)
    noise = torch.rand(4, collate.num_noise(max_text_length=16))
    words = [encode_caption(model.tokenizer, caption, max_length=16) for caption in CAPTIONS]
    return collate([Sample(video[n], *words[n], noise[n], CAPTIONS[n], n) for n in range(4)])


def main(out: str) -> SimVTP:
    """Three steps; returns the loaded model."""
    tokenizer = train_tokenizer(CAPTIONS, vocab_size=100)
    config = ModelConfig.preset("tiny", num_frames=4, width=32, vocab_size=100)
    model = SimVTP.from_config(config, encoder=vit_encoder(), tokenizer=tokenizer)
    objective, batch = Objective(model), batch_for(model)
    optimizer = torch.optim.AdamW(objective.parameters(), lr=1e-3)
    for _ in range(3):
        objective(batch).total.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(out)
    return SimVTP.from_pretrained(out, encoder=vit_encoder())


if __name__ == "__main__":
    print(main(sys.argv[1]).encode_text(CAPTIONS))
