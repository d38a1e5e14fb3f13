"""`python -m simvtp.pipelines.prepare`."""

from simvtp.pipelines.prepare.command import main

if __name__ == "__main__":
    raise SystemExit(main())
