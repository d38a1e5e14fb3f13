"""What tells one model's vectors from another's: a digest of everything that makes them."""

import hashlib
import json
from dataclasses import asdict

import torch

from simvtp.model import SimVTP


def model_digest(model: SimVTP) -> str:
    """SHA-256 of a model's weights, sizes and preprocessing, the same on every device."""
    digest = hashlib.sha256()
    described = [asdict(model.config), model.preprocessor()]
    digest.update(json.dumps(described, sort_keys=True).encode())
    for name, weight in sorted(model.state_dict().items()):
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        digest.update(weight.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
