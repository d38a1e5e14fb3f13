# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Your own parts
# A block in your own model, your own encoder in SimVTP, your own loss in the objective.

# %% [markdown]
# ## One block in your own model
# The tube masker hides the same places in every slice of time.

# %%
import torch

from simvtp.masking import TubeMasker

masker = TubeMasker((8, 14, 14), ratio=0.9)
mask = masker(2, generator=torch.Generator().manual_seed(0))
print("kept", tuple(mask.keep.shape), "dropped", tuple(mask.drop.shape))
slices = mask.keep[0].reshape(8, -1) % (14 * 14)
print("the same places in all slices:", bool((slices == slices[0]).all()))

# %% [markdown]
# ## Your own encoder
# Anything that maps `(batch, tokens, width)` and a mask of real tokens.

# %%
from torch import nn

from simvtp import ModelConfig, SimVTP
from simvtp.encoders import PaddedEncoder

config = ModelConfig.preset("tiny")
layers = nn.TransformerEncoder(
    nn.TransformerEncoderLayer(config.width, nhead=4, batch_first=True, norm_first=True),
    num_layers=2,
    enable_nested_tensor=False,
)
encoder = PaddedEncoder(
    layers, call=lambda layers, tokens, mask: layers(tokens, src_key_padding_mask=~mask)
)
model = SimVTP.from_config(config, encoder=encoder)
size = config.image_size
clips = torch.randint(0, 256, (2, config.num_frames, 3, size, size), dtype=torch.uint8)
print("features", tuple(model.encode_video(clips).shape))

# %% [markdown]
# A part that does not fit is refused at once, with the reason.

# %%
try:
    SimVTP.from_config(config, encoder=nn.Linear(3, 3))
except (TypeError, ValueError) as error:
    print(error)

# %% [markdown]
# ## Your own loss
# A further term sees the step's features. It is logged, weighed and balanced as the four are.

# %%
from simvtp import ExtraTerm, Objective


def spread(features):
    """Keep the clips of a batch apart."""
    video = nn.functional.normalize(features.pooled_video, dim=-1)
    return (video @ video.T).triu(1).square().mean()


objective = Objective(model, extra_terms={"spread": ExtraTerm(0.1, spread, needs=("video",))})
print("terms: pixels, words, vtc, vtm and", *objective.extra_terms)
