"""A part of one's own is tried on a clip, two words and a few tokens before it is believed."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from simvtp.config import ModelConfig
from simvtp.layers import PackedLayout, PackedTokens, describe
from simvtp.parts import is_usual

_OF_ENCODER = ("encode_padded", "pool", "normed", "blocks")
_WRAPPER = "simvtp.encoders.PaddedEncoder wraps a module over padded batches"
_FIXES = {
    "video_embedding": "simvtp.parts.VideoEmbedder says what it gets and gives",
    "text_embedding": "simvtp.parts.TextEmbedder says what it gets and gives",
    "encoder": _WRAPPER,
    "text_encoder": _WRAPPER,
    "pixel_decoder": "simvtp.parts.PixelPredictor says what it gets and gives",
    "word_decoder": "simvtp.parts.WordPredictor says what it gets and gives",
    "match_head": "nn.Linear(width, 2) is the usual one",
}
# Of the norm of what is compared; half precision stays below, another mask does not.
_TOLERANCE = 0.05


def require_parts(parts: Mapping[str, Any], config: ModelConfig) -> None:
    """Refuse parts that do not fit a config: each is tried, and left as it was.

    Not tried are the usual parts, and weights without values, on torch's meta device.

    Raises:
        ValueError: a part is no module, lacks a method, raises an error, gives something of
            another shape, lets tokens see padding, or shares a weight.
    """
    owners: dict[nn.Parameter, str] = {}
    for name, part in parts.items():
        offers = _OF_ENCODER if name.endswith("encoder") else ()
        missing = [offer for offer in offers if not hasattr(part, offer)]
        if not isinstance(part, nn.Module) or missing:
            wanted = f"a torch module{' with ' if offers else ''}{', '.join(offers)}"
            lacks = f" without {', '.join(missing)}" if missing else ""
            raise ValueError(
                f"{name} must be {wanted}, got {type(part).__name__}{lacks}; {_FIXES[name]}"
            )
        for own, weight in part.named_parameters(name, remove_duplicate=False):
            if (first := owners.setdefault(weight, own)) != own:
                raise ValueError(
                    f"{first} and {own} must be two weights, got one; a model folder keeps each by "
                    "itself, so give one part a copy"
                )
        weight = next(part.parameters(), torch.empty(0, device="cpu"))
        if not weight.is_meta and not is_usual(part, config):
            with _untouched(part):
                _try(name, part, config, weight)


@contextmanager
def _untouched(part: nn.Module) -> Iterator[None]:
    """Neither gradients nor dropout, statistics or random numbers drawn for good."""
    training = [module for module in part.modules() if module.training]
    part.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]), torch.device("cpu"):
            yield
    finally:
        for module in training:
            module.training = True


class _Trial(NamedTuple):
    """What a part is given, the shape of what it must make of it, and the call."""

    given: str
    shape: tuple[int, ...]
    call: Callable[[], Any]


def _try(name: str, part: Any, config: ModelConfig, weight: Tensor) -> None:
    trials = _of_embedding if name.endswith("embedding") else _of_tokens
    found: list[Tensor] = []
    for trial in trials(name, part, config, weight):
        rule = f"{name} must make {trial.shape} of {trial.given}"
        try:
            result = trial.call()
        except Exception as error:
            why = f"{type(error).__name__}: {error}".splitlines()[0]
            raise ValueError(f"{rule}, it raised {why}; {_FIXES[name]}") from error
        values = result.values if isinstance(result, PackedTokens) else result
        if not isinstance(values, Tensor) or tuple(values.shape) != trial.shape:
            raise ValueError(f"{rule}, got {describe(values)}; {_FIXES[name]}")
        found.append(values)
    if name.endswith("encoder"):
        _require_masked(name, *found[:3])


def _of_embedding(name: str, part: Any, config: ModelConfig, weight: Tensor) -> Iterator[_Trial]:
    width, device = config.width, weight.device
    if name == "video_embedding":
        size, count = config.image_size, config.num_video_tokens
        shape = (1, config.num_frames, 3, size, size)
        clip = torch.zeros(shape, dtype=torch.uint8, device=device)
        last = torch.tensor([[count - 1]], device=device)
        given = f"a clip {shape} of {' x '.join(map(str, config.grid))} tubelets"
        yield _Trial(given, (1, count, width), lambda: part(clip))
        yield _Trial(f"the last tubelet of {given}", (1, 1, width), lambda: part(clip, last))
        return
    words = torch.tensor([0, config.vocab_size - 1], device=device)
    places = torch.tensor([config.max_text_length - 1, 0], device=device)
    given = f"the first and the last of {config.vocab_size} words"
    yield _Trial(f"{given}, one caption", (1, 2, width), lambda: part(words[None]))
    given = f"{given} at the last of {config.max_text_length} places and the first"
    yield _Trial(given, (2, width), lambda: part(words, places))


def _of_tokens(name: str, part: Any, config: ModelConfig, weight: Tensor) -> Iterator[_Trial]:
    width, device = config.width, weight.device
    tokens = torch.arange(6.0 * width).sin().view(2, 3, width).to(weight)
    mask = torch.tensor([[True, True, True], [True, True, False]], device=device)
    pack = PackedTokens(tokens.flatten(0, 1)[:5], PackedLayout((3, 2), device))
    rows, first = torch.tensor([1, 4], device=device), torch.tensor([[0]], device=device)
    if name == "pixel_decoder":
        last = first + config.num_video_tokens - 1
        yield _Trial(
            f"a tubelet {config.tubelet} to predict",
            (1, 1, 3 * math.prod(config.tubelet)),
            lambda: part(tokens[:1, :1], keep=first, decode=last),
        )
    elif name == "word_decoder":
        yield _Trial("two hidden words", (2, config.vocab_size), lambda: part(pack, rows))
    elif name == "match_head":
        yield _Trial("two pairs", (2, 2), lambda: part(tokens[0, :2]))
    else:
        other = tokens.index_put((~mask,), -tokens[~mask])
        given = "two sequences of 3 and 2 tokens"
        filled = (f"{given}, filled up", (2, 3, width))
        yield _Trial(*filled, lambda: part.encode_padded(tokens, mask))
        yield _Trial(*filled, lambda: part.encode_padded(other, mask))
        yield _Trial(f"{given}, packed", (5, width), lambda: part(pack))
        yield _Trial(f"{given}, pooled", (2, width), lambda: part.pool(pack))
        yield _Trial(f"{given}, pooled", (2, width), lambda: part.pool(tokens, mask))
        yield _Trial(f"{given}, for decoders", (5, width), lambda: part.normed(pack.values))


def _require_masked(name: str, padded: Tensor, other: Tensor, packed: Tensor) -> None:
    """Refuse an encoder whose real tokens see padding, or whose two layouts differ."""
    real, seen = (torch.cat([values[0], values[1, :2]]).float() for values in (padded, other))
    bound = _TOLERANCE * real.norm()
    # NaN is within no bound.
    if not (real - seen).norm() <= bound:
        raise ValueError(
            f"{name} must keep padding out of real tokens, got others with other padding; True in "
            "the key mask is a real token, so invert it for modules that take True for padding"
        )
    if not (real - packed.float()).norm() <= bound:
        raise ValueError(
            f"{name} must encode a sequence the same packed and padded, got tokens that differ by "
            f"{float((real - packed.float()).norm() / real.norm()):.2g} of their norm; {_WRAPPER}"
        )
