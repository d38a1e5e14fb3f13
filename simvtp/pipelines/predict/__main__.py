"""`python -m simvtp.pipelines.predict`."""

from simvtp.pipelines.predict.command import main

if __name__ == "__main__":
    raise SystemExit(main())
