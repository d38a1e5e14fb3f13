"""Commands to run with `python -m`: most have a room of their own, with a `__main__`."""
