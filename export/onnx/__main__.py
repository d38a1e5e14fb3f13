"""`python -m export.onnx`."""

from export.onnx.command import main

if __name__ == "__main__":
    raise SystemExit(main())
