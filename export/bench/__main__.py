"""`python -m export.bench`."""

from export.bench.command import main

if __name__ == "__main__":
    raise SystemExit(main())
