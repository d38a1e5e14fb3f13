"""The gate of examples/, opened on a free port."""

import importlib.util
import threading
from contextlib import contextmanager
from pathlib import Path

GATE = Path(__file__).parents[2] / "examples" / "triton" / "gate.py"


def load_gate():
    spec = importlib.util.spec_from_file_location("gate", GATE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextmanager
def served(server):
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
