"""Parameters of the upstream URL that are about TLS, for the sessions' connections and for our own."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.session.certificates import Authority
from tests.session.encrypted import EncryptedPostgres, cancel, logged_in, proxy_of, url
from thanoproxy.catalog.connection import connect
from thanoproxy.config import load
from thanoproxy.errors import ConfigurationError, UpstreamUnavailable
from thanoproxy.server import Server

pytestmark = pytest.mark.timeout(90)

VERSION_OF_OURS = "SELECT version FROM pg_stat_ssl WHERE pid = pg_backend_pid()"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder with an empty `.postgresql`."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".postgresql").mkdir()
    return tmp_path


async def ask(server: EncryptedPostgres, question: str, **options: object) -> object:
    """On a connection of our own."""
    async with connect(server.url(**options)) as connection:
        return await connection.fetchval(question)


def refused(server: EncryptedPostgres, words: str, **options: object) -> None:
    """Nothing is served with these."""
    with pytest.raises(ConfigurationError, match=words):
        Server(load(None, {"upstream": {"url": server.url(**options)}}))


class TestRevoked:
    @pytest.mark.parametrize("where", ["named", "home"])
    @pytest.mark.parametrize("mode", ["require", "verify-full"])
    async def test_the_servers_certificate(
        self, server: EncryptedPostgres, authority: Authority, tmp_path: Path, home: Path, mode: str, where: str
    ) -> None:
        options: dict[str, Any] = {"sslmode": mode, "sslrootcert": authority.file}
        for revoked in (False, True):
            listed = authority.revoke(*[server.pair] if revoked else [])
            if where == "named":
                options["sslcrl"] = listed
            else:
                (home / ".postgresql" / "root.crl").write_bytes(listed.read_bytes())
            with (
                proxy_of(server, tmp_path / str(revoked), **options) as proxy,
                pytest.raises(psycopg.OperationalError, match="certificate revoked") if revoked else contextlib.nullcontext(),
            ):
                assert logged_in(url(proxy)) == ("postgres", True)
            with pytest.raises(UpstreamUnavailable, match="certificate revoked") if revoked else contextlib.nullcontext():
                assert await ask(server, "SELECT 1", **options) == 1

    def test_a_list_that_is_none(self, server: EncryptedPostgres, authority: Authority, tmp_path: Path) -> None:
        options: dict[str, Any] = {"sslmode": "verify-full", "sslrootcert": authority.file}
        refused(server, "sslcrl: cannot use .*: No such file", **options, sslcrl=tmp_path / "none")
        refused(server, "sslcrl: cannot use .* lists of revoked", **options, sslcrl=Authority(tmp_path, "other").file)

    def test_where_nothing_is_checked(self, server: EncryptedPostgres, authority: Authority, home: Path) -> None:
        for mode in ("prefer", "require"):
            refused(server, "sslcrl needs a server's certificate that is checked", sslmode=mode, sslcrl=authority.revoke())


class TestSystem:
    """What the system trusts is what OpenSSL's own variable names."""

    async def test_trusted(self, server: EncryptedPostgres, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
        with proxy_of(server, tmp_path, sslrootcert="system") as proxy:
            assert logged_in(url(proxy)) == ("postgres", True)
        assert await ask(server, "SELECT 1", sslrootcert="system") == 1

    async def test_not_trusted(self, server: EncryptedPostgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SSL_CERT_FILE", str(Authority(tmp_path, "other").file))
        with (
            proxy_of(server, tmp_path, sslrootcert="system") as proxy,
            pytest.raises(psycopg.OperationalError, match="certificate verify failed"),
        ):
            psycopg.connect(url(proxy))
        with pytest.raises(UpstreamUnavailable, match="certificate verify failed"):
            await ask(server, "SELECT 1", sslrootcert="system")


class TestVersions:
    @pytest.mark.parametrize(("bound", "version"), [("min", "TLSv1.3"), ("max", "TLSv1.2")])
    async def test_bounds(self, server: EncryptedPostgres, tmp_path: Path, bound: str, version: str) -> None:
        options = {"sslmode": "require", f"ssl_{bound}_protocol_version": version}
        with proxy_of(server, tmp_path, **options) as proxy, psycopg.connect(url(proxy)) as connection:
            assert connection.execute(VERSION_OF_OURS).fetchone() == (version,)
        assert await ask(server, VERSION_OF_OURS, **options) == version

    def test_none_in_common(self, server: EncryptedPostgres, tmp_path: Path, authority: Authority) -> None:
        pair = authority.sign("inner", ("localhost",))
        with (
            proxy_of(server, tmp_path / "inner", pair, clients={"max_version": "TLSv1.2"}) as inner,
            proxy_of(at(server, inner.port), tmp_path / "outer", sslmode="require", ssl_min_protocol_version="TLSv1.3") as outer,
            pytest.raises(psycopg.OperationalError, match=r"(?i)protocol.version"),
        ):
            psycopg.connect(url(outer, "trusted"))


class TestCertificate:
    def test_with_a_password(self, server: EncryptedPostgres, authority: Authority, tmp_path: Path) -> None:
        """The certificate of the name that the server's map knows, with a key that is encrypted."""
        own = authority.sign("thanoproxy", password="key's")
        options = {"sslmode": "require", "sslcert": own.certificate, "sslkey": own.key}
        with proxy_of(server, tmp_path, **options, sslpassword="key's") as proxy:
            assert logged_in(url(proxy, "certified")) == ("certified", True)
        refused(server, "sslcert: cannot use .*: the key is encrypted", **options)
        refused(server, "sslcert: cannot use ", **options, sslpassword="another")

    async def test_of_our_own_connections(self, server: EncryptedPostgres, authority: Authority) -> None:
        own = authority.sign("thanoproxy", password="key's")
        options = {"user": "certified", "sslmode": "require", "sslcert": own.certificate, "sslkey": own.key, "sslpassword": "key's"}
        assert await ask(server, "SELECT session_user::text", **options) == "certified"


class TestDirect:
    """PostgreSQL 17 is the first that can be spoken to so; what stands for it is a proxy, which can as well."""

    async def test_direct(self, server: EncryptedPostgres, authority: Authority, tmp_path: Path) -> None:
        pair = authority.sign("inner", ("localhost",))
        options = {"sslmode": "verify-full", "sslrootcert": authority.file, "sslnegotiation": "direct"}
        with (
            proxy_of(server, tmp_path / "inner", pair) as inner,
            proxy_of(at(server, inner.port), tmp_path / "outer", **options) as outer,
        ):
            assert logged_in(url(outer, "trusted")) == ("trusted", True)
            cancel(url(outer, "trusted"))
            assert await ask(at(server, inner.port), "SELECT 1", user="trusted", **options) == 1

    def test_a_server_that_cannot(self, server: EncryptedPostgres, tmp_path: Path) -> None:
        with (
            proxy_of(server, tmp_path, sslmode="require", sslnegotiation="direct") as proxy,
            pytest.raises(psycopg.OperationalError, match="cannot reach the database server"),
        ):
            psycopg.connect(url(proxy))


def at(server: EncryptedPostgres, port: int) -> EncryptedPostgres:
    return EncryptedPostgres(port, server.pair, server.authority)
