"""Logins across two legs, each plain or encrypted: relayed where that works, and by the proxy itself where it does not.

The server is the machine's own PostgreSQL with ssl=on, since the one in the package has no TLS.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import asyncpg
import psycopg
import pytest

from tests.rawwire import RawClient
from tests.serving import Proxy
from tests.session.certificates import Authority, Pair
from tests.session.encrypted import PASSWORD, SSL_OF_OURS, EncryptedPostgres, cancel, logged_in, proxy_of, url
from thanoproxy.config import load
from thanoproxy.errors import ConfigurationError
from thanoproxy.server import Server
from thanoproxy.session.verifiers import FileVerifiers
from thanoproxy.wire.messages import query

pytestmark = pytest.mark.timeout(90)


@pytest.fixture(scope="module")
def pair(authority: Authority) -> Pair:
    """The proxy's own certificate."""
    return authority.sign("proxy", ("localhost", "127.0.0.1"))


class TestUpstream:
    """sslmode of the upstream URL; clients are plain, and logins relayed."""

    @pytest.mark.parametrize(
        ("mode", "encrypted"),
        [("disable", False), ("allow", False), ("prefer", True), ("require", True), ("verify-ca", True), ("verify-full", True)],
    )
    def test_modes(self, server: EncryptedPostgres, tmp_path: Path, mode: str, encrypted: bool) -> None:
        with proxy_of(server, tmp_path, sslmode=mode, sslrootcert=server.authority.file) as proxy:
            assert logged_in(url(proxy)) == ("postgres", encrypted)
            wants_tls = contextlib.nullcontext() if mode != "disable" else pytest.raises(psycopg.OperationalError, match="rejects")
            with wants_tls:
                assert logged_in(url(proxy, "wants_tls")) == ("wants_tls", True)
            plain = mode in ("disable", "allow", "prefer")
            with contextlib.nullcontext() if plain else pytest.raises(psycopg.OperationalError, match="rejects"):
                assert logged_in(url(proxy, "wants_plain")) == ("wants_plain", False)
            cancel(url(proxy))

    def test_a_server_without_tls(self, server: EncryptedPostgres, tmp_path: Path) -> None:
        for mode, works in (("allow", True), ("prefer", True), ("require", False)):
            with (
                answering(b"N", server.port) as port,
                proxy_of(at(server, port), tmp_path, sslmode=mode) as proxy,
                contextlib.nullcontext() if works else pytest.raises(psycopg.OperationalError, match="does not support TLS"),
            ):
                assert logged_in(url(proxy)) == ("postgres", False)

    @pytest.mark.parametrize("answer", [b"E\0\0\0\x0dSERRIBLE\0\0", b"SN", b"X", b""])
    def test_an_answer_that_is_none(self, server: EncryptedPostgres, tmp_path: Path, answer: bytes) -> None:
        with answering(answer, None) as port, proxy_of(at(server, port), tmp_path, sslmode="require") as proxy:
            with pytest.raises(psycopg.OperationalError, match="cannot reach the database server") as caught:
                psycopg.connect(url(proxy))
            assert "ERRIBLE" not in str(caught.value)

    def test_an_authority_that_is_not_ours(self, server: EncryptedPostgres, tmp_path: Path) -> None:
        other = Authority(tmp_path, "other")
        for mode in ("require", "verify-ca", "verify-full"):
            with (
                proxy_of(server, tmp_path, sslmode=mode, sslrootcert=other.file) as proxy,
                pytest.raises(psycopg.OperationalError, match="certificate verify failed"),
            ):
                psycopg.connect(url(proxy))

    def test_a_name_that_is_not_the_servers(self, server: EncryptedPostgres, tmp_path: Path) -> None:
        for mode in ("verify-ca", "verify-full"):
            address: dict[str, Any] = {"sslmode": mode, "sslrootcert": server.authority.file, "host": "127.0.0.1"}
            elsewhere = {**address, "host": "localhost.localdomain"}
            with proxy_of(server, tmp_path, **address) as proxy:
                assert logged_in(url(proxy))[1]
            try:
                socket.gethostbyname("localhost.localdomain")
            except OSError:
                continue
            with proxy_of(server, tmp_path, **elsewhere) as proxy:
                fails = mode == "verify-full"
                with pytest.raises(psycopg.OperationalError, match="ostname mismatch") if fails else contextlib.nullcontext():
                    assert logged_in(url(proxy))[1]

    @pytest.mark.parametrize("user", ["trusted", "hashed", "cleartext", "postgres", 'odd "name'])
    @pytest.mark.parametrize("mode", ["disable", "require"])
    def test_methods(self, relaying: dict[str, Proxy], user: str, mode: str) -> None:
        assert logged_in(url(relaying[mode], user)) == (user, mode == "require")
        if user != "trusted":
            with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
                psycopg.connect(url(relaying[mode], user, "wrong"))

    async def test_asyncpg(self, relaying: dict[str, Proxy]) -> None:
        connection = await asyncpg.connect(user="postgres", password=PASSWORD, host="localhost", port=relaying["require"].port, ssl=False)
        try:
            assert await connection.fetchval(SSL_OF_OURS)
        finally:
            await connection.close()

    def test_a_half_closed_client_still_gets_its_answers(self, relaying: dict[str, Proxy]) -> None:
        with RawClient(url(relaying["require"], "trusted", sslmode="disable")) as raw:
            raw.send(query(b"SELECT pg_sleep(0.3)"), query(b"SELECT 2"))
            raw.socket.shutdown(socket.SHUT_WR)
            assert "".join(raw.read()[0] for _ in range(8)) == "TDCZTDCZ"
            with pytest.raises(EOFError):
                raw.read()

    def test_wrong_files_are_told_before_anything_is_served(self, server: EncryptedPostgres, tmp_path: Path, pair: Pair) -> None:
        wrong: list[tuple[dict[str, object], str]] = [
            ({"sslmode": "verify-full", "sslrootcert": tmp_path / "none"}, "sslrootcert: cannot use"),
            ({"sslcert": pair.certificate, "sslkey": server.pair.key}, "sslcert: cannot use"),
            ({"sslmode": "sometimes"}, "sslmode should be one of"),
        ]
        for options, words in wrong:
            with pytest.raises(ConfigurationError, match=words):
                Server(load(None, {"upstream": {"url": server.url(**options)}}))


@pytest.fixture(scope="module")
def relaying(server: EncryptedPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Proxy]]:
    """Proxies without TLS for clients, by sslmode upstream."""
    with contextlib.ExitStack() as stack:
        yield {mode: stack.enter_context(proxy_of(server, tmp_path_factory.mktemp(mode), sslmode=mode)) for mode in ("disable", "require")}


class TestRelayUnderTls:
    def test_a_plain_leg_upstream(self, server: EncryptedPostgres, pair: Pair, tmp_path: Path) -> None:
        with proxy_of(server, tmp_path, pair, sslmode="disable") as proxy:
            for user in ("postgres", "hashed", "cleartext", "trusted"):
                assert logged_in(url(proxy, user, sslmode="require")) == (user, False)
            with pytest.raises(psycopg.OperationalError, match="channel binding"):
                psycopg.connect(url(proxy, sslmode="require", channel_binding="require"))

    def test_the_servers_own_certificate(self, server: EncryptedPostgres, tmp_path: Path) -> None:
        with proxy_of(server, tmp_path, server.pair, sslmode="require") as proxy:
            assert logged_in(url(proxy, sslmode="require", channel_binding="require")) == ("postgres", True)

    def test_two_certificates(self, server: EncryptedPostgres, pair: Pair, tmp_path: Path) -> None:
        """What cannot be relayed fails, with the server's own words; without channel binding it can."""
        with proxy_of(server, tmp_path, pair, sslmode="require") as proxy:
            with pytest.raises(psycopg.OperationalError, match="SCRAM channel binding check failed"):
                psycopg.connect(url(proxy, sslmode="require"))
            assert logged_in(url(proxy, sslmode="require", channel_binding="disable")) == ("postgres", True)
            assert logged_in(url(proxy, sslmode="disable")) == ("postgres", True)


@pytest.fixture(scope="module", params=["query", "file"])
def checking(
    request: pytest.FixtureRequest, server: EncryptedPostgres, pair: Pair, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Proxy]:
    """A proxy that checks passwords itself; TLS on both sides, with a certificate of its own."""
    folder = tmp_path_factory.mktemp(request.param)
    auth: dict[str, object] = {"mode": "scram"}
    if request.param == "file":
        auth["verifiers"] = folder / "users.txt"
        lines = ['"{}" "{}"'.format(user.replace('"', '""'), text) for user, text in server.verifiers().items() if user != "no_login"]
        (folder / "users.txt").write_text("; of pg_authid\n\n" + "\n".join(lines) + "\n")
    with proxy_of(server, folder, pair, auth=auth, sslmode="verify-full", sslrootcert=server.authority.file) as running:
        yield running


class TestScram:
    @pytest.mark.parametrize("binding", ["require", "prefer", "disable"])
    @pytest.mark.parametrize("user", ["postgres", "trusted", "wants_tls", 'odd "name'])
    def test_psycopg(self, checking: Proxy, user: str, binding: str) -> None:
        assert logged_in(url(checking, user, sslmode="require", channel_binding=binding)) == (user, True)

    def test_a_plain_client(self, checking: Proxy) -> None:
        assert logged_in(url(checking, sslmode="disable")) == ("postgres", True)
        with pytest.raises(psycopg.OperationalError, match="channel binding"):
            psycopg.connect(url(checking, sslmode="disable", channel_binding="require"))

    async def test_asyncpg(self, checking: Proxy, authority: Authority) -> None:
        context = ssl.create_default_context(cafile=str(authority.file))
        connection = await asyncpg.connect(user="postgres", password=PASSWORD, host="localhost", port=checking.port, ssl=context)
        try:
            assert await connection.fetchval(SSL_OF_OURS)
            assert len(await connection.fetch("SELECT generate_series(1, 10000)")) == 10000
        finally:
            await connection.close()

    def test_protocol_3_2(self, checking: Proxy) -> None:
        """PostgreSQL before 18 negotiates down to 3.0, which it says before it asks for a login."""
        if psycopg.pq.version() < 180000:
            pytest.skip("libpq 18 is the first to ask for it")
        assert logged_in(url(checking, max_protocol_version="latest"))[0] == "postgres"

    @pytest.mark.parametrize("user", ["postgres", "nobody", "no_password", "no_login", "expired", "trusted"])
    def test_a_wrong_password_looks_the_same_for_everybody(self, checking: Proxy, user: str) -> None:
        with pytest.raises(psycopg.OperationalError, match=f'password authentication failed for user "{user}"'):
            psycopg.connect(url(checking, user, "wrong"))

    @pytest.mark.parametrize("user", ["nobody", "no_password", "no_login", "expired"])
    def test_the_right_password_is_not_enough(self, checking: Proxy, user: str) -> None:
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(url(checking, user))

    @pytest.mark.parametrize("user", ["hashed", "cleartext"])
    def test_a_login_that_is_no_scram_is_refused(self, checking: Proxy, user: str) -> None:
        with pytest.raises(psycopg.OperationalError, match="kind of login that the proxy cannot do"):
            psycopg.connect(url(checking, user))

    def test_what_the_server_refuses_is_told(self, checking: Proxy) -> None:
        with pytest.raises(psycopg.OperationalError, match='database "none" does not exist'):
            psycopg.connect(url(checking, dbname="none"))
        with pytest.raises(psycopg.OperationalError, match="rejects"):
            psycopg.connect(url(checking, "wants_plain"))

    def test_cancel(self, checking: Proxy) -> None:
        cancel(url(checking, sslmode="require", channel_binding="require"))


def test_a_file_that_is_not_the_servers(server: EncryptedPostgres, pair: Pair, tmp_path: Path) -> None:
    """The right password with another salt opens the proxy's door, and no other."""
    verifiers = server.verifiers()
    with psycopg.connect(server.url()) as connection:
        encoded = connection.pgconn.encrypt_password(PASSWORD.encode(), b"postgres", b"scram-sha-256").decode()
    assert encoded != verifiers["postgres"]
    (tmp_path / "users").write_text(f'"postgres" "{encoded}"\n')
    with (
        proxy_of(server, tmp_path, pair, auth={"mode": "scram", "verifiers": tmp_path / "users"}) as proxy,
        pytest.raises(psycopg.OperationalError, match="password authentication failed"),
    ):
        psycopg.connect(url(proxy))


@pytest.mark.parametrize("line", ['"a" "md5c4ca4238a0b923820dcc509a6f75849b"', '"a" "plain"', "a b", '"a" "SCRAM-SHA-256$4096:x$y:z"'])
def test_a_file_with_something_else_in_it(tmp_path: Path, line: str) -> None:
    (tmp_path / "users").write_text(f"\n{line}\n")
    with pytest.raises(ConfigurationError, match=r"auth\.verifiers: line 2 of .*users should be"):
        FileVerifiers(tmp_path / "users", b"secret")


# Doubles.


def at(server: EncryptedPostgres, port: int) -> EncryptedPostgres:
    return EncryptedPostgres(port, server.pair, server.authority)


@contextlib.contextmanager
def answering(answer: bytes, port: int | None) -> Iterator[int]:
    """A server that gives `answer` to every SSLRequest; what else comes goes to the one at `port`, or nowhere."""
    listener = socket.create_server(("127.0.0.1", 0))

    def pump(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def serve(client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            head = client.recv(8, socket.MSG_PEEK | socket.MSG_WAITALL)
            if head[4:] == b"\x04\xd2\x16\x2f":
                client.recv(8)
                client.sendall(answer)
            if port is None:
                return
            with socket.create_connection(("127.0.0.1", port)) as end:
                back = Thread(target=pump, args=(end, client))
                back.start()
                pump(client, end)
                back.join()

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    thread = Thread(target=accept)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        listener.close()
