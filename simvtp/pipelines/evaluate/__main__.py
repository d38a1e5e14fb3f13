"""`python -m simvtp.pipelines.evaluate`."""

from simvtp.pipelines.evaluate.command import main

if __name__ == "__main__":
    raise SystemExit(main())
