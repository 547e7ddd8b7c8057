"""An HTTP server on loopback whose pages may do what they like with the connection."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Self

from tests.session.certificates import Pair

__all__ = ["Page", "Site", "Visit", "answer"]


@dataclass(frozen=True)
class Visit:
    """A request that came; `name` is what the client's TLS hello asked for."""

    target: str
    headers: dict[str, str]
    name: str | None

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]


Page = Callable[[socket.socket], None]
"""Sends an answer; what it raises of OSError ends the connection."""


def answer(body: bytes = b"", status: int = 200, **headers: str) -> Page:
    """A page that behaves.  Underscores in names of headers stand for hyphens."""
    lines = [
        f"HTTP/1.1 {status} -",
        f"Content-Length: {len(body)}",
        *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items()),
    ]
    whole = ("\r\n".join(lines) + "\r\n\r\n").encode() + body
    return lambda connection: connection.sendall(whole)


class Site:
    """`pages` by path; one that is a list is used up page by page but for the last.  `visits` is who came, `lost` how many connections
    the client ended while a page was being sent."""

    def __init__(self, host: str = "127.0.0.1", pair: Pair | None = None) -> None:
        self.pages: dict[str, Page | list[Page]] = {}
        self.visits: list[Visit] = []
        self.lost = 0
        self.connections = 0
        self._context = None
        if pair is not None:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(pair.certificate, pair.key)
            self._context.sni_callback = _remember_name
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, 0), family=family, backlog=256)
        self.port: int = self._listener.getsockname()[1]
        self._open: set[socket.socket] = set()
        self._thread = threading.Thread(target=self._listen, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    @property
    def paths(self) -> list[str]:
        return [visit.path for visit in self.visits]

    def _listen(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections += 1
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        self._open.add(connection)
        with connection, contextlib.suppress(OSError):
            encrypted = connection if self._context is None else self._context.wrap_socket(connection, server_side=True)
            with encrypted:
                for target, headers in _requests(encrypted):
                    visit = Visit(target, headers, getattr(encrypted, "asked_for", None))
                    self.visits.append(visit)
                    try:
                        self._page(visit.path)(encrypted)
                    except OSError:
                        self.lost += 1
                        break
        self._open.discard(connection)

    def _page(self, path: str) -> Page:
        page = self.pages.get(path, answer(status=404))
        if isinstance(page, list):
            return page.pop(0) if len(page) > 1 else page[0]
        return page


def _remember_name(connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
    connection.asked_for = name  # type: ignore[attr-defined]


def _requests(connection: socket.socket) -> Iterator[tuple[str, dict[str, str]]]:
    with connection.makefile("rb") as lines:
        while line := lines.readline():
            headers = {}
            while header := lines.readline().strip():
                name, _, value = header.decode().partition(":")
                headers[name.lower()] = value.strip()
            yield line.decode().split(" ")[1], headers
