"""Ask a Triton server that serves a repository of `python -m export.triton`.

    pip install 'tritonclient[http]'
    python examples/triton/client.py --text "a red circle moves to the left"
    python examples/triton/client.py --video clip.mp4
    python examples/triton/client.py --video clip.mp4 --text "a red circle moves to the left"
    python examples/triton/client.py --text "a red circle moves to the left" --among CLIPS

Prints an embedding, or for both the probability that they belong together, or the videos of a
folder in the order of their similarity. `--save FILE.npy` keeps the embedding.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from tritonclient.http import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException

_ENDINGS = (".mp4", ".mkv", ".webm", ".mov", ".avi", ".gif")


def ask(client: InferenceServerClient, model: str, **inputs: bytes) -> dict[str, np.ndarray]:
    """Send one request with bytes as inputs; the outputs by name, of one row."""
    tensors = []
    for name, value in inputs.items():
        tensor = InferInput(name, [1, 1], "BYTES")
        tensor.set_data_from_numpy(np.array([[value]], dtype=object))
        tensors.append(tensor)
    result = client.infer(model, tensors)
    names = [output["name"] for output in result.get_response()["outputs"]]
    return {name: result.as_numpy(name)[0] for name in names}


def main() -> None:
    """Ask and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", default="localhost:8000", help="%(default)s")
    parser.add_argument("--text", help="a caption")
    parser.add_argument("--video", type=Path, help="a video file")
    parser.add_argument("--among", type=Path, metavar="FOLDER", help="rank its videos")
    parser.add_argument("--save", type=Path, metavar="FILE.npy")
    options = parser.parse_args()
    client = InferenceServerClient(options.url, network_timeout=600, connection_timeout=60)
    try:
        _answer(options, client, parser)
    except (InferenceServerException, OSError) as error:
        sys.exit(f"error: {_plain(str(error))}")


def _answer(
    options: argparse.Namespace, client: InferenceServerClient, parser: argparse.ArgumentParser
) -> None:
    if options.video is not None and options.text is not None:
        if options.among is not None or options.save is not None:
            parser.error("--among and --save take an embedding: give --text or --video, not both")
        video, text = options.video.read_bytes(), options.text.encode()
        found = ask(client, "match_video", VIDEO=video, TEXT=text)
        print(f"matching probability {found['match_probability'].item():.4f}")
        return
    if options.video is not None:
        embedding = ask(client, "embed_video", VIDEO=options.video.read_bytes())["video_embed"]
    elif options.text is not None:
        found = ask(client, "search", TEXT=options.text.encode())
        embedding = found["text_embed"]
        for name, score in zip(found.get("ids", ()), found.get("scores", ()), strict=True):
            print(f"{score:.4f} {_plain(name.decode())}")
    else:
        parser.error("give --text, --video or both")
    if options.among is not None:
        _rank(client, embedding, options.among)
    if options.save is not None:
        np.save(options.save, embedding)
    first = ", ".join(f"{value:.4f}" for value in embedding[:4])
    print(f"{len(embedding)} numbers, the first {first}")


def _plain(text: str) -> str:
    """A text that does nothing to the terminal; names and messages come from elsewhere."""
    return text if text.isprintable() else ascii(text)


def _rank(client: InferenceServerClient, embedding: np.ndarray, folder: Path) -> None:
    scores = {}
    for file in sorted(folder.iterdir()):
        if file.suffix.lower() in _ENDINGS:
            try:
                found = ask(client, "embed_video", VIDEO=file.read_bytes())["video_embed"]
            except InferenceServerException as error:
                print(f"left out {_plain(file.name)}: {_plain(error.message())}")
                continue
            scores[file.name] = float(found @ embedding)
    for name, score in sorted(scores.items(), key=lambda pair: -pair[1]):
        print(f"{score:.4f} {_plain(name)}")


if __name__ == "__main__":
    main()
