"""A Ray cluster on this machine, of a head that does no work and machines that tests add."""

import os
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
# Enough for these tests; Ray's own choice is a third of the machine's memory.
SMALL = {"object_store_memory": 80_000_000, "include_log_monitor": False}


class Machines:
    """The cluster, by the address of its head."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 0, "include_dashboard": False, "no_monitor": True, **SMALL}
        # Ray takes 127.0.0.1 for another address of this machine.
        head |= {"node_ip_address": "127.0.0.2"}
        self._cluster = Cluster(initialize_head=True, head_node_args=head)
        self._addresses = (f"127.0.0.{number}" for number in count(3))
        self.address = self._cluster.address

    def add(self, **resources: float) -> Any:
        address = next(self._addresses)
        return self._cluster.add_node(node_ip_address=address, **SMALL, **resources)

    def is_up(self, machine: Any) -> bool:
        return machine in self._cluster.worker_nodes

    def kill(self, machine: Any) -> None:
        self._cluster.remove_node(machine, allow_graceful=False)

    def close(self) -> None:
        self._cluster.shutdown()


@pytest.fixture(scope="session")
def machines() -> Iterator[Machines]:
    pytest.importorskip("ray")
    with pytest.MonkeyPatch.context() as patch:
        # Its processes begin elsewhere.
        others = os.environ.get("PYTHONPATH")
        patch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{others}" if others else str(ROOT))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        # Ray's actors would wait for everything else that runs here.
        patch.setenv("RAY_worker_niceness", "0")
        cluster = Machines()
        yield cluster
        cluster.close()
