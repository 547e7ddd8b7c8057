"""TLS between clients and the proxy: every way in, and what is refused.  The server behind it has none."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import ssl
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Timer

import asyncpg
import psycopg
import pytest
from psycopg import errors

from tests.databases import Database
from tests.serving import Proxy, running_proxy, small_model
from tests.session.certificates import Authority
from thanoproxy.embedded import EmbeddedPostgres
from thanoproxy.wire import messages
from thanoproxy.wire.clienthello import NO_APPLICATION_PROTOCOL
from thanoproxy.wire.startup import GSSENC_REQUEST, SSL_REQUEST, request

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


@contextlib.contextmanager
def serving(postgres: EmbeddedPostgres, images: Path, artifacts: Path, **tls: object) -> Iterator[Proxy]:
    with running_proxy(postgres.url, [images], artifacts, more={"tls": tls}) as running:
        yield running


@pytest.fixture(scope="module")
def preferring(
    postgres: EmbeddedPostgres, template: str, image_root: Path, authority: Authority, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Proxy]:
    """A proxy with tls.mode = prefer."""
    pair = authority.sign("prefer", ("localhost", "127.0.0.1"))
    with serving(
        postgres, image_root, tmp_path_factory.mktemp("artifacts"), mode="prefer", certificate=pair.certificate, key=pair.key
    ) as running:
        yield running


@pytest.fixture(scope="module")
def requiring(
    postgres: EmbeddedPostgres, template: str, image_root: Path, authority: Authority, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Proxy]:
    """A proxy with tls.mode = require that wants certificates of clients, too."""
    pair = authority.sign("require", ("localhost",))
    files = {"certificate": pair.certificate, "key": pair.key, "client_ca": authority.file}
    with serving(postgres, image_root, tmp_path_factory.mktemp("artifacts"), mode="require", **files) as running:
        yield running


def encrypted(connection: psycopg.Connection[tuple[object, ...]]) -> bool:
    return connection.pgconn.ssl_in_use


WAYS = [("postgres", mode) for mode in ("prefer", "require", "verify-ca", "verify-full")]
if psycopg.pq.version() >= 170000:  # the first libpq that can begin with TLS
    WAYS += [("direct", mode) for mode in ("require", "verify-ca", "verify-full")]


@pytest.mark.parametrize(("negotiation", "mode"), WAYS)
def test_psycopg(preferring: Proxy, database: Database, authority: Authority, negotiation: str, mode: str) -> None:
    url = f"{preferring.url(database)}?sslmode={mode}&sslrootcert={authority.file}"
    if negotiation == "direct":
        url += "&sslnegotiation=direct"
    with psycopg.connect(url) as connection:
        assert encrypted(connection)
        assert connection.execute("SELECT repeat('x', 3000000)").fetchone() == ("x" * 3000000,)
        with connection.cursor().copy("COPY (SELECT generate_series(1, 50000)) TO STDOUT") as copy:
            assert sum(1 for _ in copy.rows()) == 50000


@pytest.mark.parametrize("mode", ["disable", "allow"])
def test_plain_clients_are_welcome_where_tls_is_only_preferred(preferring: Proxy, database: Database, mode: str) -> None:
    with psycopg.connect(f"{preferring.url(database)}?sslmode={mode}") as connection:
        assert not encrypted(connection)


def test_a_name_that_is_not_in_the_certificate_is_not_believed(preferring: Proxy, database: Database, authority: Authority) -> None:
    url = preferring.url(database).replace("127.0.0.1", "elsewhere.example")
    options = f"hostaddr=127.0.0.1&sslrootcert={authority.file}"
    with pytest.raises(psycopg.OperationalError, match="does not match host name"):
        psycopg.connect(f"{url}?sslmode=verify-full&{options}", connect_timeout=10)
    psycopg.connect(f"{url}?sslmode=verify-ca&{options}", connect_timeout=10).close()


async def test_asyncpg(preferring: Proxy, database: Database, authority: Authority) -> None:
    context = ssl.create_default_context(cafile=str(authority.file))
    connection = await asyncpg.connect(preferring.url(database), ssl=context)
    try:
        rows = await connection.fetch("SELECT i, repeat('y', 1000) FROM generate_series(1, $1::int) i", 2000)
        assert len(rows) == 2000
    finally:
        await connection.close()


def test_statements_of_ours(preferring: Proxy, database: Database) -> None:
    url = f"{preferring.url(database)}?sslmode=require"
    small_model(url)
    with psycopg.connect(url) as connection:
        rows = connection.execute("PREDICT USING colours AS SELECT id, image FROM pictures").fetchall()
        assert {row[2] for row in rows} <= {"red", "blue"}
        assert len(rows) == 24


@pytest.mark.parametrize("negotiation", sorted({negotiation for negotiation, _ in WAYS}))
def test_cancel(preferring: Proxy, database: Database, negotiation: str) -> None:
    url = f"{preferring.url(database)}?sslmode=require" + ("&sslnegotiation=direct" if negotiation == "direct" else "")
    with psycopg.connect(url, autocommit=True) as connection:
        timer = Timer(0.5, connection.cancel_safe)
        timer.start()
        start = time.monotonic()
        with pytest.raises(errors.QueryCanceled, match="user request"):
            connection.execute("SELECT pg_sleep(20)")
        assert time.monotonic() - start < 5
        timer.join()
        assert connection.execute("SELECT 1").fetchone() == (1,)


async def test_cancel_with_asyncpg(preferring: Proxy, database: Database) -> None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    connection = await asyncpg.connect(preferring.url(database), ssl=context)
    try:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(connection.execute("SELECT pg_sleep(20)"), 0.5)
        assert await connection.fetchval("SELECT 1") == 1
    finally:
        await connection.close()


class TestRequire:
    def test_without_encryption(self, requiring: Proxy, database: Database) -> None:
        with pytest.raises(psycopg.OperationalError, match="no encryption"):
            psycopg.connect(f"{requiring.url(database)}?sslmode=disable", connect_timeout=10)

    def test_without_a_certificate(self, requiring: Proxy, database: Database) -> None:
        with pytest.raises(psycopg.OperationalError, match="certificate required"):
            psycopg.connect(f"{requiring.url(database)}?sslmode=require", connect_timeout=10)

    def test_with_a_certificate_of_another_authority(self, requiring: Proxy, database: Database, tmp_path: Path) -> None:
        pair = Authority(tmp_path, "stranger").sign("client")
        url = f"{requiring.url(database)}?sslmode=require&sslcert={pair.certificate}&sslkey={pair.key}"
        with pytest.raises(psycopg.OperationalError, match="unknown ca"):
            psycopg.connect(url, connect_timeout=10)

    @pytest.mark.parametrize("mode", ["require", "allow"])
    def test_with_a_certificate(self, requiring: Proxy, database: Database, authority: Authority, mode: str) -> None:
        pair = authority.sign("client")
        url = f"{requiring.url(database)}?sslmode={mode}&sslcert={pair.certificate}&sslkey={pair.key}"
        with psycopg.connect(url) as connection:
            assert encrypted(connection)


# By hand: what no well-behaved client does.


def startup(database: str = "postgres") -> bytes:
    body = struct.pack("!I", 196608) + f"user\0postgres\0database\0{database}\0\0".encode()
    return struct.pack("!I", len(body) + 4) + body


def dial(proxy: Proxy) -> socket.socket:
    return socket.create_connection((proxy.host, proxy.port), 10)


def shake(sock: socket.socket, alpn: list[str] | None = None) -> ssl.SSLSocket:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if alpn:
        context.set_alpn_protocols(alpn)
    return context.wrap_socket(sock)


def rest(sock: socket.socket) -> bytes:
    """Everything up to the end."""
    received = b""
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        while part := sock.recv(65536):
            received += part
    return received


@pytest.mark.parametrize("before", [[], [GSSENC_REQUEST]])
def test_ssl_request(preferring: Proxy, before: list[int]) -> None:
    with dial(preferring) as sock:
        for code in before:
            sock.sendall(request(code))
            assert sock.recv(10) == b"N"
        sock.sendall(request(SSL_REQUEST))
        assert sock.recv(10) == b"S"
        with shake(sock) as tls:
            tls.sendall(startup())
            assert tls.recv(1) == b"R"


def test_direct_tls_without_the_protocols_name_is_closed(preferring: Proxy) -> None:
    with dial(preferring) as sock, contextlib.suppress(ConnectionError, ssl.SSLError), shake(sock) as tls:
        with contextlib.suppress(ConnectionError):
            tls.sendall(startup())
        assert rest(tls) == b""


@pytest.mark.parametrize("direct", [True, False])
def test_a_client_of_other_protocols_is_told_so(preferring: Proxy, direct: bool) -> None:
    """As by PostgreSQL 17; older ones know nothing of ALPN."""
    with dial(preferring) as sock:
        if not direct:
            sock.sendall(request(SSL_REQUEST))
            assert sock.recv(1) == b"S"
        with pytest.raises(ssl.SSLError, match=r"(?i)no.application.protocol|alert number 120"):
            shake(sock, ["http/1.1", "h2"])


def test_a_name_among_others_is_enough(preferring: Proxy) -> None:
    with dial(preferring) as sock:
        sock.sendall(request(SSL_REQUEST))
        assert sock.recv(1) == b"S"
        with shake(sock, ["h2", "postgresql"]) as tls:
            assert tls.selected_alpn_protocol() == "postgresql"
            tls.sendall(startup())
            assert tls.recv(1) == b"R"


def test_a_hello_in_small_pieces(preferring: Proxy) -> None:
    """What is not yet there is waited for."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["http/1.1"])
    client = context.wrap_bio(incoming, outgoing)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    hello = outgoing.read()
    with dial(preferring) as sock:
        sock.sendall(request(SSL_REQUEST))
        assert sock.recv(1) == b"S"
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for part in (hello[:3], hello[3:9], hello[9:200], hello[200:]):
            sock.sendall(part)
            time.sleep(0.05)
        assert rest(sock) == NO_APPLICATION_PROTOCOL


@pytest.mark.parametrize("code", [SSL_REQUEST, GSSENC_REQUEST])
@pytest.mark.parametrize("direct", [True, False])
def test_no_request_follows_within_tls(preferring: Proxy, code: int, direct: bool) -> None:
    with dial(preferring) as sock:
        if not direct:
            sock.sendall(request(SSL_REQUEST))
            assert sock.recv(1) == b"S"
        with shake(sock, ["postgresql"]) as tls:
            tls.sendall(request(code))
            answer = rest(tls)
            assert answer.startswith(b"E")
            assert b"unsupported frontend protocol 1234." in answer


def test_plaintext_behind_the_request_is_refused(preferring: Proxy) -> None:
    with dial(preferring) as sock:
        sock.sendall(request(SSL_REQUEST) + startup())
        assert b"received unencrypted data after SSL request" in rest(sock)


@pytest.mark.parametrize("where", ["bare", "refused", "tls", "direct"])
def test_an_unknown_key_is_answered_by_silence(preferring: Proxy, where: str) -> None:
    packet = struct.pack("!IIII", 16, 80877102, 1, 2)
    with dial(preferring) as sock:
        if where == "refused":
            sock.sendall(request(GSSENC_REQUEST))
            assert sock.recv(1) == b"N"
        elif where == "tls":
            sock.sendall(request(SSL_REQUEST))
            assert sock.recv(1) == b"S"
        end = shake(sock, ["postgresql"]) if where in ("tls", "direct") else sock
        with end:
            end.sendall(packet)
            assert rest(end) == b""


@pytest.mark.parametrize("where", ["bare", "refused", "tls", "direct"])
def test_a_cancel_may_come_by_any_way(preferring: Proxy, database: Database, where: str) -> None:
    with psycopg.connect(f"{preferring.url(database)}?sslmode=require", autocommit=True) as connection:
        pid = connection.info.backend_pid
        key = next(key for number, key in preferring.server._keys if number == pid)
        packet = struct.pack("!III", 12 + len(key), 80877102, pid) + key

        def cancel() -> None:
            with dial(preferring) as sock:
                if where == "refused":
                    sock.sendall(request(GSSENC_REQUEST))
                    sock.recv(1)
                elif where == "tls":
                    sock.sendall(request(SSL_REQUEST))
                    sock.recv(1)
                end = shake(sock, ["postgresql"]) if where in ("tls", "direct") else sock
                with end:
                    end.sendall(packet)
                    rest(end)

        timer = Timer(0.4, cancel)
        timer.start()
        with pytest.raises(errors.QueryCanceled):
            connection.execute("SELECT pg_sleep(20)")
        timer.join()


def test_bytes_behind_the_startup_message_are_not_lost(preferring: Proxy, database: Database) -> None:
    """A client that is in a hurry sends its password together with the StartupMessage; the server answers to both."""
    with dial(preferring) as sock:
        sock.sendall(request(SSL_REQUEST))
        assert sock.recv(1) == b"S"
        with shake(sock) as tls:
            tls.sendall(startup(database.name) + messages.message(b"p", b"not SCRAM\0"))
            answer = rest(tls)
            assert answer.startswith(b"R")
            assert b"FATAL" in answer


def test_half_a_handshake_ends_in_time(postgres: EmbeddedPostgres, image_root: Path, authority: Authority, tmp_path: Path) -> None:
    pair = authority.sign("hasty", ("127.0.0.1",))
    section = {"mode": "prefer", "certificate": pair.certificate, "key": pair.key}
    more: dict[str, dict[str, object]] = {"tls": section, "server": {"port": 0, "login_timeout": 0.7}}
    with running_proxy(postgres.url, [image_root], tmp_path, more=more) as running:
        for sent in (b"", b"\x16\x03\x01", request(SSL_REQUEST), request(SSL_REQUEST)[:5]):
            with dial(running) as sock:
                sock.sendall(sent)
                start = time.monotonic()
                assert rest(sock) in (b"", b"S")
                assert 0.4 < time.monotonic() - start < 3
        with dial(running) as sock, shake(sock, ["postgresql"]) as tls:
            assert rest(tls) == b""


def test_a_crowd_waits_and_one_who_stands_in_the_door_is_shown_out(
    postgres: EmbeddedPostgres, image_root: Path, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("thanoproxy.server._DOOR_SECONDS", 0.5)
    with (
        running_proxy(postgres.url, [image_root], tmp_path, more={"server": {"port": 0, "max_arriving": 2}}) as running,
        contextlib.ExitStack() as stack,
    ):
        silent = [stack.enter_context(dial(running)) for _ in range(4)]
        with psycopg.connect(running.url(database), connect_timeout=20) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
        assert rest(silent[0]) == b""


def test_reload(preferring: Proxy, authority: Authority, tmp_path: Path, postgres: EmbeddedPostgres, image_root: Path) -> None:
    first, second = authority.sign("first"), authority.sign("second")
    live = tmp_path / "live.pem"

    def put(*files: Path) -> None:
        live.write_bytes(b"".join(file.read_bytes() for file in files))

    def shown() -> bytes:
        with dial(running) as sock, shake(sock, ["postgresql"]) as tls:
            return tls.getpeercert(binary_form=True) or b""

    def der(file: Path) -> bytes:
        return ssl.PEM_cert_to_DER_cert(file.read_text())

    put(first.certificate, first.key)
    with serving(postgres, image_root, tmp_path / "artifacts", mode="prefer", certificate=live) as running:
        assert shown() == der(first.certificate)
        put(second.certificate, first.key)
        running.loop.call_soon_threadsafe(running.server.reload)
        assert shown() == der(first.certificate), "a broken pair is not taken"
        put(second.certificate, second.key)
        running.loop.call_soon_threadsafe(running.server.reload)
        assert shown() == der(second.certificate)
        shutil.copy(first.certificate, live)
        running.loop.call_soon_threadsafe(running.server.reload)
        assert shown() == der(second.certificate)
