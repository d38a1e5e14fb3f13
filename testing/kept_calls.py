"""A logger that keeps what it gets."""


class Kept:
    """Keeps what it gets; fails in the call of one name."""

    def __init__(self, fails_in=None):
        self.calls, self.fails_in = [], fails_in

    def _note(self, *call):
        self.calls.append(call)
        if self.fails_in == call[0]:
            raise ConnectionError("no network\x1b[2J")

    def step(self, step, figures):
        self._note("step", step, figures)
        figures.clear()

    def event(self, step, name, figures):
        self._note("event", step, name, figures)

    def close(self):
        self._note("close")
