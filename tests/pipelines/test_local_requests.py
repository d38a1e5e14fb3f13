"""Sockets that servers on this machine listen at."""

import socket

import pytest

from simvtp.pipelines.local_requests import address_of, listening_socket


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_what_it_accepts_waits_for_no_acknowledgement(host):
    with (
        listening_socket(host, 0) as listening,
        socket.create_connection(listening.getsockname()[:2]),
        listening.accept()[0] as accepted,
    ):
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1


def test_its_address():
    with listening_socket("::1", 0) as listening:
        assert address_of(listening) == f"http://[::1]:{listening.getsockname()[1]}"
