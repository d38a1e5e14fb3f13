"""A run whose encoder is torch's own: `python -m testing.pipelines.own_run SETTINGS`."""

import sys

from torch import nn

from simvtp.config import PretrainConfig
from simvtp.encoders import PaddedEncoder
from simvtp.pipelines.arguments import parse_job
from simvtp.pipelines.pretrain import build_model, command, pretrain


def own_encoder(width):
    layer = nn.TransformerEncoderLayer(width, 2, 2 * width, 0.0, batch_first=True, norm_first=True)
    encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
    return PaddedEncoder(encoder, call=call)


def call(encoder, tokens, key_mask):
    return encoder(tokens, src_key_padding_mask=~key_mask)


def own_model(config, *, tokenizer):
    return build_model(config, tokenizer=tokenizer, encoder=own_encoder(config.model.width))


def run(arguments):
    parsed = parse_job(command.build_parser(), arguments)
    config = PretrainConfig(**{name: getattr(parsed, name) for name in command.SETTINGS})
    return pretrain(config, build_model=own_model, resume=parsed.resume)


if __name__ == "__main__":
    run(sys.argv[1:])
