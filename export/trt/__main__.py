"""`python -m export.trt`."""

from export.trt.command import main

if __name__ == "__main__":
    raise SystemExit(main())
