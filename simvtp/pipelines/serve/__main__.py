"""`python -m simvtp.pipelines.serve`."""

from simvtp.pipelines.serve.command import main

if __name__ == "__main__":
    raise SystemExit(main())
