"""The paper's model in plain torch, over weights under the paper's names (arXiv 2212.03490)."""

import math

import torch
from torch.nn import functional

WIDTH, DEPTH, HEADS, VOCAB, LENGTH = 128, 2, 2, 50, 20
DECODER_WIDTH, DECODER_DEPTH, DECODER_HEADS = 64, 1, 1
FRAMES, SIZE, TUBELET = 4, 32, (2, 16, 16)
PIXELS = 3 * 2 * 16 * 16
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def linear_shapes(name, out, into):
    return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}


def norm_shapes(name, width):
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def block_shapes(name, width):
    return {
        **norm_shapes(f"{name}.norm1", width),
        **norm_shapes(f"{name}.norm2", width),
        f"{name}.attn.q_bias": (width,),
        f"{name}.attn.v_bias": (width,),
        f"{name}.attn.qkv.weight": (3 * width, width),
        **linear_shapes(f"{name}.attn.proj", width, width),
        **linear_shapes(f"{name}.mlp.fc1", 4 * width, width),
        **linear_shapes(f"{name}.mlp.fc2", width, 4 * width),
    }


def blocks_shapes(name, width, depth):
    return {
        key: shape
        for number in range(depth)
        for key, shape in block_shapes(f"{name}.{number}", width).items()
    }


def patch_shapes(prefix):
    return {
        f"{prefix}patch_embed.proj.weight": (WIDTH, 3, *TUBELET),
        f"{prefix}patch_embed.proj.bias": (WIDTH,),
    }


def text_shapes(prefix):
    return {
        f"{prefix}text_embeddings.word_embeddings.weight": (VOCAB, WIDTH),
        f"{prefix}text_embeddings.position_embeddings.weight": (LENGTH, WIDTH),
        f"{prefix}text_embeddings.token_type_embeddings.weight": (2, WIDTH),
        **norm_shapes(f"{prefix}text_embeddings.LayerNorm", WIDTH),
    }


def videomae_shapes():
    return {
        **patch_shapes("encoder."),
        **blocks_shapes("encoder.blocks", WIDTH, DEPTH),
        **norm_shapes("encoder.norm", WIDTH),
        **blocks_shapes("decoder.blocks", DECODER_WIDTH, DECODER_DEPTH),
        **norm_shapes("decoder.norm", DECODER_WIDTH),
        **linear_shapes("decoder.head", PIXELS, DECODER_WIDTH),
        "encoder_to_decoder.weight": (DECODER_WIDTH, WIDTH),
        "mask_token": (1, 1, DECODER_WIDTH),
    }


def pre_training_shapes():
    return {
        **videomae_shapes(),
        **text_shapes(""),
        **linear_shapes("text_cls", VOCAB, WIDTH),
        **linear_shapes("vtm_head", 2, WIDTH),
    }


def fine_tuning_shapes():
    towers = ("video_encoder.", "text_encoder.")
    return {
        key: shape
        for tower in towers
        for key, shape in {
            **patch_shapes(tower),
            **blocks_shapes(f"{tower}blocks", WIDTH, DEPTH),
            **norm_shapes(f"{tower}fc_norm", WIDTH),
            **text_shapes(tower),
        }.items()
    }


def videomae_fine_tuned_shapes():
    return {
        **patch_shapes(""),
        **blocks_shapes("blocks", WIDTH, DEPTH),
        **norm_shapes("fc_norm", WIDTH),
        **linear_shapes("head", 7, WIDTH),
    }


def random_state(shapes, *, seed=0):
    """Values large enough that each of them, biases and norms too, shows in the features."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(shape, generator=generator) * 0.1 + ("norm" in name.lower())
        for name, shape in shapes.items()
    }


def layer_norm(state, name, tokens, eps=1e-6):
    mean = tokens.mean(dim=-1, keepdim=True)
    variance = (tokens - mean).square().mean(dim=-1, keepdim=True)
    return (tokens - mean) / (variance + eps).sqrt() * state[f"{name}.weight"] + state[
        f"{name}.bias"
    ]


def linear(state, name, tokens):
    return tokens @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def attention(state, name, tokens, heads):
    width = tokens.shape[-1]
    query, key, value = (tokens @ part.T for part in state[f"{name}.qkv.weight"].chunk(3))
    query, value = query + state[f"{name}.q_bias"], value + state[f"{name}.v_bias"]
    outputs = []
    for head in range(heads):
        columns = slice(head * width // heads, (head + 1) * width // heads)
        scores = query[..., columns] * (width // heads) ** -0.5 @ key[..., columns].transpose(1, 2)
        outputs.append(scores.softmax(dim=-1) @ value[..., columns])
    return linear(state, f"{name}.proj", torch.cat(outputs, dim=-1))


def blocks(state, name, tokens, *, depth, heads):
    for number in range(depth):
        block = f"{name}.{number}"
        tokens = tokens + attention(
            state, f"{block}.attn", layer_norm(state, f"{block}.norm1", tokens), heads
        )
        hidden = linear(state, f"{block}.mlp.fc1", layer_norm(state, f"{block}.norm2", tokens))
        hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
        tokens = tokens + linear(state, f"{block}.mlp.fc2", hidden)
    return tokens


def position_table(count, width):
    table = torch.empty(count, width, dtype=torch.float64)
    for position in range(count):
        for column in range(width):
            angle = position / 10000 ** (2 * (column // 2) / width)
            table[position, column] = math.sin(angle) if column % 2 == 0 else math.cos(angle)
    return table


def normalized(video):
    """Clips `(batch, frames, 3, height, width)` uint8 as the networks take them, float64."""
    mean, std = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in (MEAN, STD))
    return (video.double() / 255 - mean) / std


def video_tokens(state, prefix, video, table=None):
    weight, bias = (state[f"{prefix}patch_embed.proj.{name}"] for name in ("weight", "bias"))
    maps = functional.conv3d(normalized(video).transpose(1, 2), weight, bias, stride=TUBELET)
    tokens = maps.flatten(2).transpose(1, 2)
    return tokens + (position_table(tokens.shape[1], WIDTH) if table is None else table)


def text_tokens(state, prefix, ids):
    name = f"{prefix}text_embeddings"
    tokens = state[f"{name}.word_embeddings.weight"][ids]
    tokens = tokens + state[f"{name}.position_embeddings.weight"][: ids.shape[1]]
    tokens = tokens + state[f"{name}.token_type_embeddings.weight"][0]
    return layer_norm(state, f"{name}.LayerNorm", tokens, eps=1e-12)


def encode(state, tokens):
    tokens = blocks(state, "encoder.blocks", tokens, depth=DEPTH, heads=HEADS)
    return layer_norm(state, "encoder.norm", tokens)


def take(tokens, index):
    return torch.stack([row[order] for row, order in zip(tokens, index, strict=True)])


def decode(state, visible, *, keep, drop, num_tokens):
    table = position_table(num_tokens, DECODER_WIDTH)
    known = visible @ state["encoder_to_decoder.weight"].T + table[keep]
    tokens = torch.cat([known, state["mask_token"] + table[drop]], dim=1)
    tokens = blocks(state, "decoder.blocks", tokens, depth=DECODER_DEPTH, heads=DECODER_HEADS)
    tokens = layer_norm(state, "decoder.norm", tokens[:, keep.shape[1] :])
    return linear(state, "decoder.head", tokens)
