# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Search videos
# Index a folder, ask for moments with words or with a clip.
# Here the folder holds drawn clips; for yours take a model that was trained on videos like yours.

# %%
import shutil
from pathlib import Path
from tempfile import mkdtemp

from simvtp.data import load_clips
from simvtp.data.corpus.rendering import render_corpus

VIDEOS, INDEX = Path(mkdtemp()), Path(mkdtemp()) / "index"
said = {}
for record in load_clips(render_corpus(num_up_front=0).validation)[:64]:
    shutil.copy(record.path, VIDEOS)
    said[record.path.name] = record.captions[0]  # to look at; the index does not see it
print(len(list(VIDEOS.iterdir())), "videos, no captions")

# %% [markdown]
# ## Index
# Files that were added, changed or removed since are followed when the same command runs again.

# %%
from simvtp.pipelines import index

assert index.main(["--model", "shapes", "--data", str(VIDEOS), "--out", str(INDEX)]) == 0

# %% [markdown]
# ## Ask with words

# %%
from IPython.display import Image, display

from simvtp.pipelines.search import Searcher

searcher = Searcher.open(INDEX)
found = searcher.search("a yellow star moves to the bottom", top=3, rerank=16)
for hit, match in zip(found.hits, found.matches, strict=True):
    where = f"{hit.file}, {hit.start:.1f} to {hit.end:.1f} s"
    print(f"{where}: cosine {hit.score:.2f}, match {match:.2f}; it shows: {said[hit.file]}")
    display(Image(hit.thumbnail))

# %% [markdown]
# ## More like the first one

# %%
for hit in searcher.more_like(found.hits[0].key, top=3).hits:
    print(hit.file, f"{hit.score:.2f}", said[hit.file])

# %% [markdown]
# In a shell: `python -m simvtp.pipelines.search --index INDEX "words"`; `--serve` opens a page.
