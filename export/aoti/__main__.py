"""`python -m export.aoti`."""

from export.aoti.command import main

if __name__ == "__main__":
    raise SystemExit(main())
