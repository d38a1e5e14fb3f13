# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Your own clips
# From a folder of videos with captions to a model and its held-out figures.
# Here the folder is made of drawn clips; put yours in `VIDEOS`.

# %%
import csv
import shutil
from pathlib import Path
from tempfile import mkdtemp

from simvtp.data import load_clips
from simvtp.data.corpus.rendering import render_corpus

VIDEOS = Path(mkdtemp())
drawn = load_clips(render_corpus(num_up_front=0).validation)
for part, records in (("train", drawn[:192]), ("held_out", drawn[192:])):
    with (VIDEOS / f"{part}.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "text"])  # usual names are understood
        for record in records:
            shutil.copy(record.path, VIDEOS / record.path.name)
            rows.writerow([record.path.name, record.captions[0]])
print(len(list(VIDEOS.glob("*.mp4"))), "videos")

# %% [markdown]
# ## Check them
# Every clip is decoded once; what does not decode is named with the reason.

# %%
from simvtp.pipelines import prepare

assert prepare.main(["--data", str(VIDEOS / "train.csv"), "--check"]) == 0

# %% [markdown]
# ## Train
# For a minute or two with its figures, from random weights. `--init-video` begins with
# weights from elsewhere.

# %%
from simvtp.pipelines.pretrain import main

RUN = Path(mkdtemp()) / "run"
words = {
    "data.train": VIDEOS / "train.csv",
    "data.validation": VIDEOS / "held_out.csv",
    "run.out": RUN,
    "run.epochs": 2,
}
assert main([f"--{name}={value}" for name, value in words.items()]) == 0

# %%
from IPython.display import Image

Image(RUN / "curves.png")

# %% [markdown]
# ## Measure

# %%
from simvtp.pipelines import evaluate

assert evaluate.main(["--model", f"{RUN}/model", "--data", f"{VIDEOS}/held_out.csv"]) == 0
