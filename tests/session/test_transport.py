"""What a session's plain sockets promise, whichever of the three implementations serves: plain Python, compiled, libuv's."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvloop

from tests.uncompiled import from_source, is_compiled
from thanoproxy.session import transport as imported


class Heard(asyncio.Protocol):
    """A protocol that remembers what it was told."""

    def __init__(self, keep_open: bool = False) -> None:
        self.told: list[str] = []
        self.data = bytearray()
        self.keep_open = keep_open
        self.problem: Exception | None = None
        self.lost = asyncio.get_running_loop().create_future()
        self.resumed = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        self.data += data

    def eof_received(self) -> bool:
        self.told.append("eof")
        return self.keep_open

    def pause_writing(self) -> None:
        self.told.append("pause")

    def resume_writing(self) -> None:
        self.told.append("resume")
        self.resumed.set()

    def connection_lost(self, problem: Exception | None) -> None:
        self.problem = problem
        self.lost.set_result(None)


@pytest.fixture(params=["python", "compiled", "polled"])
def kind(request: pytest.FixtureRequest) -> Any:
    if request.param == "python":
        return from_source(imported).SocketTransport
    if not is_compiled(imported):
        pytest.skip("not compiled: there was no C compiler at installation")
    if request.param == "compiled":
        return imported.SocketTransport
    from thanoproxy.session.polled import PolledTransport

    return PolledTransport


@pytest.fixture
async def pair() -> AsyncIterator[tuple[socket.socket, socket.socket]]:
    """A TCP connection: ours, and the peer's, both non-blocking."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        peer = socket.create_connection(listener.getsockname())
        ours, _ = listener.accept()
    with ours, peer:
        ours.setblocking(False)
        peer.setblocking(False)
        yield ours, peer


def open_transport(kind: Any, sock: socket.socket, protocol: Heard) -> Any:
    return kind(asyncio.get_running_loop(), sock, protocol)


async def soon(condition: Any) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - what it waits for has no event
            await asyncio.sleep(0.001)


async def test_bytes_arrive_in_order_both_ways(kind: Any, pair: tuple[socket.socket, socket.socket]) -> None:
    ours, peer = pair
    loop, sent = asyncio.get_running_loop(), random.Random(1).randbytes(3_000_000)
    protocol = Heard()
    transport = open_transport(kind, ours, protocol)
    await loop.sock_sendall(peer, sent)
    await soon(lambda: len(protocol.data) == len(sent))
    assert bytes(protocol.data) == sent
    for at in range(0, len(sent), 100_000):
        transport.write(sent[at : at + 100_000])
    transport.close()
    got = bytearray()
    while part := await loop.sock_recv(peer, 1 << 20):
        got += part
    assert bytes(got) == sent, "close() closes behind what was written"
    await protocol.lost
    assert protocol.problem is None


async def test_a_slow_reader_pauses_the_writer_once_and_resumes_it(kind: Any, pair: tuple[socket.socket, socket.socket]) -> None:
    ours, peer = pair
    protocol = Heard()
    transport = open_transport(kind, ours, protocol)
    for _ in range(200):
        transport.write(bytes(100_000))
    assert protocol.told == ["pause"]
    left = 200 * 100_000
    while left:
        left -= len(await asyncio.get_running_loop().sock_recv(peer, 1 << 20))
    await asyncio.wait_for(protocol.resumed.wait(), 5)
    assert protocol.told == ["pause", "resume"]
    transport.abort()
    await protocol.lost


async def test_nothing_is_read_while_paused_and_nothing_is_lost_by_it(kind: Any, pair: tuple[socket.socket, socket.socket]) -> None:
    ours, peer = pair
    protocol = Heard()
    transport = open_transport(kind, ours, protocol)
    transport.pause_reading()
    peer.send(b"early")
    await asyncio.sleep(0.05)
    assert not protocol.data
    transport.resume_reading()
    await soon(lambda: protocol.data == b"early")
    transport.abort()
    await protocol.lost


async def test_half_close_in_both_directions(kind: Any, pair: tuple[socket.socket, socket.socket]) -> None:
    ours, peer = pair
    protocol = Heard(keep_open=True)
    transport = open_transport(kind, ours, protocol)
    peer.send(b"question")
    peer.shutdown(socket.SHUT_WR)
    await soon(lambda: protocol.told == ["eof"])
    transport.write(b"answer")
    transport.write_eof()
    assert await asyncio.get_running_loop().sock_recv(peer, 100) == b"answer"
    assert await asyncio.get_running_loop().sock_recv(peer, 100) == b""
    transport.close()
    await protocol.lost
    assert bytes(protocol.data) == b"question"


async def test_the_end_of_the_peer_closes_unless_the_protocol_says_otherwise(kind: Any, pair: tuple[socket.socket, socket.socket]) -> None:
    ours, peer = pair
    protocol = Heard()
    open_transport(kind, ours, protocol)
    peer.close()
    await asyncio.wait_for(protocol.lost, 5)
    assert protocol.problem is None


async def test_what_came_before_a_reset_is_heard(kind: Any, pair: tuple[socket.socket, socket.socket]) -> None:
    """As when PostgreSQL says FATAL and closes with a statement of ours unread."""
    ours, peer = pair
    protocol = Heard()
    transport = open_transport(kind, ours, protocol)
    transport.pause_reading()
    peer.send(b"FATAL")
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()
    await asyncio.sleep(0.05)
    transport.resume_reading()
    await asyncio.wait_for(protocol.lost, 5)
    assert bytes(protocol.data) == b"FATAL"
    assert isinstance(protocol.problem, OSError) or protocol.told == ["eof"]


async def test_a_write_to_a_peer_that_has_left_is_the_end_and_no_exception(kind: Any, pair: tuple[socket.socket, socket.socket]) -> None:
    ours, peer = pair
    protocol = Heard()
    transport = open_transport(kind, ours, protocol)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()
    for _ in range(3):
        transport.write(b"anybody?")
    await asyncio.wait_for(protocol.lost, 5)
    transport.write(b"nobody")
    assert transport.is_closing()


async def test_an_error_pending_while_nothing_is_read_ends_a_full_writer(kind: Any, pair: tuple[socket.socket, socket.socket]) -> None:
    ours, peer = pair
    protocol = Heard()
    transport = open_transport(kind, ours, protocol)
    transport.pause_reading()
    for _ in range(200):
        transport.write(bytes(100_000))
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()
    await asyncio.wait_for(protocol.lost, 5)
    assert isinstance(protocol.problem, OSError)


async def test_a_descriptor_that_is_used_again_is_watched_again(kind: Any) -> None:
    for turn in range(20):
        a, b = socket.socketpair()
        with a, b:
            a.setblocking(False)
            protocol = Heard()
            open_transport(kind, a, protocol)
            b.send(b"%d" % turn)
            await soon(lambda protocol=protocol, turn=turn: protocol.data == b"%d" % turn)
            b.close()
            await asyncio.wait_for(protocol.lost, 5)


def test_a_loop_that_ends_first_takes_nothing_down(kind: Any) -> None:
    a, b = socket.socketpair()
    with a, b:
        a.setblocking(False)

        async def leave() -> None:
            open_transport(kind, a, Heard())

        try:
            uvloop.run(leave())
        except (OSError, RuntimeError) as problem:
            assert "busy" in str(problem).lower()  # noqa: PT017 - libuv says that something is still watched


async def test_the_end_of_a_long_stream_does_not_wait_for_more(kind: Any, pair: tuple[socket.socket, socket.socket]) -> None:
    ours, peer = pair
    marks = set()

    class Looking(Heard):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            marks.add(ours.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT))

    loop, protocol = asyncio.get_running_loop(), Looking()
    transport = open_transport(kind, ours, protocol)
    sent = random.Random(3).randbytes(1 << 20) * 64
    peer.setblocking(True)
    await asyncio.to_thread(peer.sendall, sent)
    began = loop.time()
    await soon(lambda: len(protocol.data) == len(sent))
    assert loop.time() - began < 0.5
    await soon(lambda: ours.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) == 1)
    peer.send(b"!")
    await soon(lambda: protocol.data.endswith(b"!"))
    assert protocol.data == sent + b"!"
    assert marks == ({1, 131072} if kind.__name__ == "PolledTransport" else {1}), "woken for each piece, or for many at once"
    transport.abort()
    await protocol.lost
