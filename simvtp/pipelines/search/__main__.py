"""`python -m simvtp.pipelines.search`."""

from simvtp.pipelines.search.command import main

if __name__ == "__main__":
    raise SystemExit(main())
