"""Seven clips, one of which is none, and the command that embeds them."""

from pathlib import Path

from simvtp.pipelines.embed import command

CLIPS = {"a": 31, "b": 3, "c": 24, "bad": 0, "d": 12, "e": 40, "f": 26}
GOOD = [name for name in CLIPS if name != "bad"]
CAPTIONS = {
    name: [f"a clip called {name}", "bars, in a row"][: 1 + n % 2] for n, name in enumerate(CLIPS)
}
FRAMES, STRIDE, SIZE = 4, 2, 32


def run(model_folder: Path, manifest: Path, out: Path, *further: object) -> int:
    own = ("--model", model_folder, "--data", manifest, "--out", out, "--text", "--batch-size=4")
    spread = ("--clips-per-video=2", "--max-bad-share=1", "--device=cpu")
    return command.main([str(argument) for argument in (*own, *spread, *further)])


def files(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.parent.iterdir() if path.is_file()}
