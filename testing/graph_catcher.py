"""What dynamo makes of transformers that are to run as CUDA graphs, where there is no GPU."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest
import torch
from torch._dynamo.utils import counters

from simvtp.layers import block as block_module


@contextmanager
def caught_graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[torch.fx.GraphModule]]:
    """Every graph that is compiled within; it then runs as it is, without inductor.

    What compiles again does not depend on the backend, and this one takes no time.
    """
    graphs: list[torch.fx.GraphModule] = []

    def eager(graph, inputs, **_):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=eager))
    torch.compiler.reset()
    counters.clear()
    block_module._captured_stack.cache_clear()
    yield graphs
    torch.compiler.reset()
    block_module._captured_stack.cache_clear()
