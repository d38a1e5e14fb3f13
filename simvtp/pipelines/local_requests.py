"""Servers on loopback: where they listen, and which requests are of this machine.

A page of another site that is open in the same browser can send requests to a loopback server, and
reads the answers where a name of its own leads to 127.0.0.1 (DNS rebinding). So the name that was
asked for must be one of this machine, and the page that asks must be the server's own.
"""

import socket
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def is_loopback(host: str) -> bool:
    """Whether a host is this machine alone."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def listening_socket(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 takes a free one.

    What it accepts sends small writes at once. asyncio sees to that for sockets of its own only;
    without, the body of each answer would wait 40 ms for the client's delayed acknowledgement.

    Raises:
        ValueError: the host or the port cannot be used.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        raise ValueError(
            f"port {port} of {host} cannot be used ({error}); take --port 0"
        ) from error
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def address_of(listening: socket.socket) -> str:
    """The address of a listening socket, as `http://host:port`."""
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def foreign_host(headers: Headers) -> str | None:
    """Why a request is not for a name of this machine; None if it is."""
    host = headers.get("host", "")
    if _name_of(f"//{host}") not in LOOPBACK:
        return f"{host[:100]!a} is no name of this machine; ask for 127.0.0.1 or localhost"
    return None


def foreign_site(headers: Headers, method: str) -> str | None:
    """Why a request is of another site's page; None if it is of none, or of the server's own."""
    origin = headers.get("origin")
    if origin is not None and origin != f"http://{headers.get('host', '')}":
        return "requests from other sites are refused"
    # What a browser of today says of every request, also where it sends no Origin.
    site = headers.get("sec-fetch-site", "none")
    is_visit = method == "GET" and headers.get("sec-fetch-mode") == "navigate"
    if site not in ("none", "same-origin") and not is_visit:
        return "requests from other sites are refused"
    return None


def _name_of(address: str) -> str | None:
    try:
        return urlsplit(address).hostname
    except ValueError:
        return None
