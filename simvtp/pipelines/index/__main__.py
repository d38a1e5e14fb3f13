"""`python -m simvtp.pipelines.index`."""

from simvtp.pipelines.index.command import main

if __name__ == "__main__":
    raise SystemExit(main())
