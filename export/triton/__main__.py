"""`python -m export.triton`."""

from export.triton.command import main

if __name__ == "__main__":
    raise SystemExit(main())
