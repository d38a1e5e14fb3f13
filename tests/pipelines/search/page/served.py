"""Serves an index as the command does, and tells which addresses the process asks for.

Run by the tests: `served.py INDEX FILE`; the addresses go to FILE, one on each line.
"""

import ipaddress
import sys
from pathlib import Path

from simvtp.pipelines.search import Searcher
from simvtp.pipelines.search.page import serve


def told(event: str, arguments: tuple[object, ...]) -> None:
    if event not in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname"):
        return
    place = arguments[1] if event == "socket.connect" else arguments[0]
    host = place[0] if isinstance(place, tuple) else place
    if not is_local(host):
        with Path(sys.argv[2]).open("a") as file:
            print(event, host, file=file)


def is_local(host: object) -> bool:
    """Whether it is this machine; names of files are sockets between its processes."""
    if host in (None, "", b"", "localhost") or str(host).startswith(("/", "b'/", "\0")):
        return True
    try:
        return ipaddress.ip_address(str(host)).is_loopback
    except ValueError:
        return False


if __name__ == "__main__":
    sys.addaudithook(told)
    serve(Searcher.open(sys.argv[1]), port=0)
