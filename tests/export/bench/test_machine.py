import os
from pathlib import Path

from export.bench.machine import describe_machine, machine_text

XEON = """processor\t: 0
model name\t: Some Processor @ 2.10GHz
flags\t\t: fpu sse2 avx512_vnni avx2 avx512f
processor\t: 1
model name\t: Another
"""


def test_the_processor_is_named_with_its_instructions(monkeypatch):
    monkeypatch.setattr(Path, "read_text", lambda self, encoding: XEON)
    machine = describe_machine()
    assert machine["processor"] == "Some Processor @ 2.10GHz"
    assert machine["instructions"] == ["avx2", "avx512f", "avx512_vnni"]
    assert machine["cores"] == os.cpu_count()
    assert machine_text(machine) == "Some Processor @ 2.10GHz (avx2, avx512f, avx512_vnni)"


def test_systems_that_do_not_tell(monkeypatch):
    def missing(self, encoding):
        raise FileNotFoundError(self)

    monkeypatch.setattr(Path, "read_text", missing)
    machine = describe_machine()
    assert machine["processor"]
    assert machine["instructions"] == []
    assert machine_text(machine) == machine["processor"]
