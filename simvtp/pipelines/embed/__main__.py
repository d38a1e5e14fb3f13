"""`python -m simvtp.pipelines.embed`."""

from simvtp.pipelines.embed.command import main

if __name__ == "__main__":
    raise SystemExit(main())
