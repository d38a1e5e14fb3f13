"""What work on many clips runs on: this machine, or the machines of a Ray cluster."""

from simvtp.engines.local import Engine, LocalEngine, Stage

__all__ = ["Engine", "LocalEngine", "Stage"]
