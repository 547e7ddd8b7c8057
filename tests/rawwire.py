"""A client that speaks bytes: libpq logs in, then the socket is ours, to send any sequence of messages and see each reply.

Replies are written as in the manual's message formats: `1` ParseComplete, `T[a:25/0]` RowDescription with type and format,
`D[x,NULL]` DataRow, `C[SELECT 1]`, `Z[I]`, `E[42601 message @position]` and so on.
"""

from __future__ import annotations

import os
import socket
import struct
from types import TracebackType
from typing import Self

import psycopg

from thanoproxy.wire import messages

__all__ = ["RawClient", "bind", "parse"]


def parse(text: str, name: str = "", types: tuple[int, ...] = ()) -> bytes:
    return messages.parse(messages.Parse(name.encode(), text.encode(), types))


def bind(values: tuple[bytes | None, ...] = (), portal: str = "", name: str = "", formats: tuple[int, ...] = ()) -> bytes:
    packed = b"".join(struct.pack("!i", -1) if v is None else struct.pack("!i", len(v)) + v for v in values)
    parameters = struct.pack("!HH", 0, len(values)) + packed
    return messages.bind(messages.Bind(portal.encode(), name.encode(), parameters, formats))


class RawClient:
    """One logged-in connection."""

    def __init__(self, url: str) -> None:
        self._connection = psycopg.connect(url, autocommit=True)
        self.pid = self._connection.info.backend_pid
        # A second descriptor of libpq's socket; libpq itself only says goodbye on it in the end.
        self.socket = socket.socket(fileno=os.dup(self._connection.fileno()))
        self.socket.settimeout(20)
        self.buffer = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.socket.close()
        self._connection.close()

    def send(self, *data: bytes) -> None:
        self.socket.sendall(b"".join(data))

    def talk(self, *data: bytes, ready: int = 1) -> list[str]:
        """Send, and return the replies up to that many ReadyForQuery."""
        self.send(*data)
        replies = []
        while ready:
            kind, body = self.read()
            replies.append(_shown(kind, body))
            ready -= kind == "Z"
        return replies

    def quiet(self, *data: bytes, seconds: float = 0.4) -> list[str]:
        """Send, and return what comes until nothing has come for a while."""
        self.send(*data)
        replies = []
        self.socket.settimeout(seconds)
        try:
            while True:
                replies.append(_shown(*self.read()))
        except TimeoutError:
            return replies
        finally:
            self.socket.settimeout(20)

    def read(self) -> tuple[str, bytes]:
        """The next message."""
        self._need(5)
        length = int.from_bytes(self.buffer[1:5], "big")
        self._need(1 + length)
        kind, body = chr(self.buffer[0]), self.buffer[5 : 1 + length]
        self.buffer = self.buffer[1 + length :]
        return kind, body

    def _need(self, size: int) -> None:
        while len(self.buffer) < size:
            data = self.socket.recv(65536)
            if not data:
                raise EOFError
            self.buffer += data


def _shown(kind: str, body: bytes) -> str:
    if kind in "EN":
        fields = messages.read_error(body)
        place = "" if fields.position is None else f" @{fields.position}"
        return f"{kind}[{fields.sqlstate} {fields.text}{place}]"
    if kind == "C":
        return f"C[{body[:-1].decode()}]"
    if kind == "Z":
        return f"Z[{body.decode()}]"
    if kind == "T":
        columns = messages.read_row_description(body)
        return "T[" + ",".join(f"{c.name.decode()}:{c.type_oid}/{c.format}" for c in columns) + "]"
    if kind == "D":
        return "D[" + ",".join("NULL" if v is None else v.decode("latin-1") for v in messages.read_data_row(body)) + "]"
    if kind == "t":
        count = int.from_bytes(body[:2], "big")
        return "t[" + ",".join(map(str, struct.unpack(f"!{count}I", body[2:]))) + "]"
    return kind
