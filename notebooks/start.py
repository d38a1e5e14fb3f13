# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Start
# A model that ships with the library, what it fills in, and a model of your own in a minute.
# No network is needed. Install first: `pip install -e '.[notebooks]'`.

# %%
import torch

from simvtp import SimVTP

model = SimVTP.from_pretrained("shapes")
print(f"{sum(p.numel() for p in model.parameters()):,} parameters")
print(f"clips of {model.config.num_frames} frames, {model.config.image_size} pixels")

# %% [markdown]
# ## Clips and captions in one space
# The embedded corpus draws clips of moving shapes. These 256 were never trained on.

# %%
from simvtp.data import load_clips
from simvtp.data.corpus.rendering import render_corpus

held_out = load_clips(render_corpus(num_up_front=0).validation)
for record in held_out[:3]:
    print(record.path.name, "|", record.captions[0])

# %%
from simvtp.retrieval.gallery import embed_gallery

model.eval()
gallery = embed_gallery(model, held_out[:32])
similarity = gallery.text @ gallery.video.T  # (captions, clips), cosines
found = similarity.argmax(dim=1)
print(f"{(found == torch.arange(32)).float().mean():.0%} of 32 captions find their clip first")

# %% [markdown]
# ## What it fills in
# Grey tubes and gaps in the caption are hidden; the last row is the model's guess.

# %%
from pathlib import Path
from tempfile import mkdtemp

from IPython.display import Image
from simvtp.pipelines import visualize

picture = Path(mkdtemp()) / "reconstruction.png"
assert visualize.main(["--model", "shapes", "--out", str(picture)]) == 0
Image(picture)

# %% [markdown]
# ## Train one
# For a minute with its figures. The whole one takes about five minutes on two cores:
# `python -m simvtp.pipelines.pretrain`.

# %%
from simvtp.pipelines.pretrain import main

out = Path(mkdtemp()) / "run"
assert main(["--run.out", str(out), "--data.num_clips", "320", "--run.epochs", "2"]) == 0
Image(out / "curves.png")
