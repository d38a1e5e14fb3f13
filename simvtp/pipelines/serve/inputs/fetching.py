"""Videos fetched for requests: from hosts that the operator named, and from nothing behind them.

A server that fetches what strangers name reaches what they cannot: services of its own machine and
network. So a URL must name one of the typed hosts; what that resolves to must be a public address,
or one that was typed too; the connection goes to the very address that was checked; and no
redirect is followed.
"""

import http.client
import socket
import ssl
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

import simvtp
from simvtp.pipelines.serve.refusals import Refusal

_PORT = 443
_BLOCK_BYTES = 1 << 16
_LONGEST_URL = 2048
# IPv6 addresses that stand for any IPv4 one, private ones too.
_TUNNELS = (ip_network("64:ff9b::/96"), ip_network("2002::/16"))


class Fetcher:
    """Fetches videos from named hosts over HTTPS.

    Args:
        allowed: names of hosts, each with `:PORT` where it is not 443; and addresses or networks
            (`10.0.0.0/8`) that these hosts may be at although they are not public.
        most_bytes: of a file.
        seconds: of a whole transfer.
        context: whose certificates are trusted; by default those of the system.

    Raises:
        ValueError: an allowed one is no host, address or network.
    """

    def __init__(
        self,
        allowed: Iterable[str],
        *,
        most_bytes: int,
        seconds: float,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self._hosts: set[tuple[str, int]] = set()
        self._networks: list[IPv4Network | IPv6Network] = []
        for one in allowed:
            self._allow(one)
        self._most_bytes = most_bytes
        self._seconds = seconds
        self._context = ssl.create_default_context() if context is None else context

    def fetch(self, url: str, file: Path) -> None:
        """Write what a URL leads to into a file.

        Raises:
            Refusal: the URL is not allowed, or does not lead to a file in time and size.
        """
        if not self._hosts:
            raise Refusal(
                "this server fetches no URLs: send the video itself, or have its operator name the "
                "host in --allow-urls",
                status=403,
                code="url_not_allowed",
            )
        parts = self._checked(url)
        host, port = str(parts.hostname), parts.port or _PORT
        try:
            self._save(parts, self._address(host, port), file)
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            raise Refusal(
                f"the video could not be fetched from its host ({type(error).__name__}); send it "
                "itself",
                code="url_failed",
            ) from error

    def _allow(self, text: str) -> None:
        try:
            if "/" in text:
                self._networks.append(ip_network(text))
                return
            parts = urlsplit(f"//{text}")
            host, port = parts.hostname or "", parts.port or _PORT
        except ValueError:
            host, port = "", _PORT
        if text.lower() not in _written(host, port):
            raise ValueError(
                f"a host that may be fetched from must be like videos.example.org, "
                f"videos.example.org:8443 or, for where one is, 10.0.0.0/8; got {text!r:.80}"
            )
        self._hosts.add((host, port))
        # Who names an address means it, public or not.
        with suppress(ValueError):
            self._networks.append(ip_network(host))

    def _checked(self, url: str) -> SplitResult:
        try:
            parts = urlsplit(url)
            place = (parts.hostname, parts.port or _PORT)
        except ValueError as error:
            raise Refusal("a video's URL must be like https://host/path") from error
        is_plain = url.isascii() and url.isprintable() and " " not in url
        is_plain = is_plain and "@" not in parts.netloc and len(url) <= _LONGEST_URL
        if parts.scheme != "https" or not is_plain:
            raise Refusal(
                f"a video's URL must be https://, of at most {_LONGEST_URL} ASCII characters, "
                "without a name and password; escape what is not ASCII"
            )
        if place not in self._hosts:
            raise Refusal(
                "the URL's host is none that this server may fetch from; its operator names them "
                "in --allow-urls",
                status=403,
                code="url_not_allowed",
            )
        return parts

    def _address(self, host: str, port: int) -> str:
        """An address of a host that may be asked; all that it has must be of that kind."""
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = [str(place[4][0]) for place in found]
        for address in addresses:
            if not self._is_open(address):
                raise Refusal(
                    "the URL's host is at an address that is not public; the server's operator may "
                    "name that address too in --allow-urls",
                    status=403,
                    code="url_not_allowed",
                )
        return addresses[0]

    def _is_open(self, text: str) -> bool:
        address = ip_address(text.partition("%")[0])
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        if any(address in network for network in self._networks):
            return True
        is_tunnel = any(address in network for network in _TUNNELS)
        return address.is_global and not address.is_multicast and not is_tunnel

    def _save(self, parts: SplitResult, address: str, file: Path) -> None:
        failed, end = None, time.monotonic() + self._seconds
        connection = _Pinned(parts, address, seconds=self._seconds, context=self._context)
        path = f"{parts.path or '/'}{f'?{parts.query}' if parts.query else ''}"
        # A host that sends a byte now and then would keep every single read in time.
        stopped = threading.Timer(self._seconds, connection.stop)
        stopped.start()
        try:
            with closing(connection), file.open("wb") as opened:
                connection.request("GET", path, headers=_HEADERS)
                with connection.getresponse() as answer:
                    for block in self._blocks(answer):
                        opened.write(block)
        except (OSError, http.client.HTTPException) as error:
            failed = error
        finally:
            stopped.cancel()
        if time.monotonic() >= end:
            message = f"the video took longer than {self._seconds:g} s to fetch; send it itself"
            raise Refusal(message, code="url_failed") from failed
        if failed is not None:
            raise failed

    def _blocks(self, answer: http.client.HTTPResponse) -> Iterator[bytes]:
        if answer.status != http.client.OK:
            raise Refusal(
                f"the video's URL must answer with the status 200, got {answer.status}; redirects "
                "are not followed",
                code="url_failed",
            )
        self._check_size(answer.length or 0)
        size = 0
        while block := answer.read1(_BLOCK_BYTES):
            size += len(block)
            self._check_size(size)
            yield block
        # What is left of the length that was told.
        if answer.length:
            raise Refusal("the video's URL ended before its file did", code="url_failed")

    def _check_size(self, size: int) -> None:
        if size > self._most_bytes:
            raise Refusal(
                f"a video may have {self._most_bytes:,} bytes, the URL's has {size:,} or more",
                status=413,
                code="too_large",
            )


def _written(host: str, port: int) -> tuple[str, ...]:
    """How a host may be written; not at all if there is none."""
    name = f"[{host}]" if ":" in host else host
    return (f"{name}:{port}", name) if host else ()


class _Pinned(http.client.HTTPSConnection):
    """A connection to an address that was checked, with the certificate of the host's name."""

    def __init__(
        self, parts: SplitResult, address: str, *, seconds: float, context: ssl.SSLContext
    ) -> None:
        host = str(parts.hostname)
        super().__init__(host, parts.port or _PORT, timeout=seconds, context=context)
        self._address = address
        self._trust = context
        self._opened: ssl.SSLSocket | None = None
        self._is_over = False

    def connect(self) -> None:
        """Open it, as far as `stop` lets it."""
        plain = socket.create_connection((self._address, self.port), self.timeout)
        waits = {"server_hostname": self.host, "do_handshake_on_connect": False}
        self._opened = self.sock = self._trust.wrap_socket(plain, **waits)
        if self._is_over:
            raise TimeoutError("the time is up")
        self.sock.do_handshake()

    def stop(self) -> None:
        """End it from another thread; whoever reads gets an error or an early end."""
        # Not `sock`, which an answer that ends with the connection has taken; and not the method
        # of TLS, which waits for the other side.
        self._is_over = True
        if self._opened is not None:
            with suppress(OSError):
                socket.socket.shutdown(self._opened, socket.SHUT_RDWR)


_HEADERS = {"User-Agent": f"simvtp/{simvtp.__version__}", "Accept-Encoding": "identity"}
