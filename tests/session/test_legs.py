"""What one leg's encryption and certificates mean for the other: upstream.mirror_tls, upstream.vouch."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import psycopg
import pytest

from tests.serving import Proxy
from tests.session.certificates import Authority, Pair
from tests.session.encrypted import PASSWORD, EncryptedPostgres, cancel, logged_in, proxy_of, url

pytestmark = pytest.mark.timeout(90)


@pytest.fixture(scope="module")
def pair(authority: Authority) -> Pair:
    """The proxy's certificate for its clients."""
    return authority.sign("front", ("localhost",))


@pytest.fixture(scope="module", params=["prefer", "verify-full"])
def mirroring(
    request: pytest.FixtureRequest, server: EncryptedPostgres, pair: Pair, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Proxy]:
    options = {"sslmode": request.param, "sslrootcert": server.authority.file}
    with proxy_of(server, tmp_path_factory.mktemp("mirror"), pair, upstream={"mirror_tls": True}, **options) as running:
        yield running


class TestMirror:
    @pytest.mark.parametrize("mode", ["disable", "require"])
    def test_the_servers_leg_is_as_the_clients(self, mirroring: Proxy, mode: str) -> None:
        assert logged_in(url(mirroring, "trusted", sslmode=mode)) == ("trusted", mode == "require")
        cancel(url(mirroring, "trusted", sslmode=mode))

    @pytest.mark.parametrize(("user", "mode"), [("wants_tls", "disable"), ("wants_plain", "require")])
    def test_lines_of_pg_hba_speak_of_clients(self, mirroring: Proxy, user: str, mode: str) -> None:
        with pytest.raises(psycopg.OperationalError, match="rejects"):
            psycopg.connect(url(mirroring, user, sslmode=mode, channel_binding="disable"))

    @pytest.mark.parametrize(("user", "modes"), [("wants_tls", ["allow", "prefer"]), ("wants_plain", ["allow", "prefer"])])
    def test_a_client_finds_the_way_that_the_server_takes(self, mirroring: Proxy, user: str, modes: list[str]) -> None:
        for mode in modes:
            encrypted = user == "wants_tls"
            assert logged_in(url(mirroring, user, sslmode=mode, channel_binding="disable")) == (user, encrypted)

    def test_a_server_without_tls(self, server: EncryptedPostgres, pair: Pair, tmp_path: Path) -> None:
        with proxy_of(server, tmp_path, pair, upstream={"mirror_tls": True}) as running:
            with psycopg.connect(server.url(), autocommit=True) as connection:
                connection.execute("ALTER SYSTEM SET ssl = off")
                connection.execute("SELECT pg_reload_conf()")
            try:
                with pytest.raises(psycopg.OperationalError, match=r"does not support TLS, which upstream\.mirror_tls needs"):
                    psycopg.connect(url(running, "trusted", sslmode="require"))
                assert logged_in(url(running, "trusted", sslmode="disable")) == ("trusted", False)
            finally:
                with psycopg.connect(server.url(sslmode="disable"), autocommit=True) as connection:
                    connection.execute("ALTER SYSTEM RESET ssl")
                    connection.execute("SELECT pg_reload_conf()")


@pytest.fixture(scope="module")
def vouching(server: EncryptedPostgres, authority: Authority, pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """A proxy whose own certificate stands for `certified` at the server, by a map."""
    own = authority.sign("thanoproxy")
    with proxy_of(
        server,
        tmp_path_factory.mktemp("vouch"),
        pair,
        clients={"client_ca": authority.file, "client_certificates": "optional"},
        upstream={"vouch": True},
        sslmode="require",
        sslcert=own.certificate,
        sslkey=own.key,
    ) as running:
        yield running


def shown(certificate: Pair, **options: object) -> dict[str, object]:
    return {"sslmode": "require", "sslcert": certificate.certificate, "sslkey": certificate.key, **options}


class TestVouch:
    def test_a_certificate_in_the_users_name(self, vouching: Proxy, authority: Authority) -> None:
        assert logged_in(url(vouching, "certified", **shown(authority.sign("certified")))) == ("certified", True)

    async def test_asyncpg(self, vouching: Proxy, authority: Authority) -> None:
        context = ssl.create_default_context(cafile=str(authority.file))
        own = authority.sign("certified")
        context.load_cert_chain(own.certificate, own.key)
        connection = await asyncpg.connect(user="certified", database="postgres", host="localhost", port=vouching.port, ssl=context)
        try:
            assert await connection.fetchval("SELECT session_user::text") == "certified"
        finally:
            await connection.close()

    @pytest.mark.parametrize("mode", ["disable", "require"])
    def test_without_one(self, vouching: Proxy, mode: str) -> None:
        """PostgreSQL's own words: the proxy shows it nothing."""
        with pytest.raises(psycopg.OperationalError, match="requires a valid client certificate"):
            psycopg.connect(url(vouching, "certified", sslmode=mode))
        assert logged_in(url(vouching, "trusted", sslmode=mode))[0] == "trusted"

    @pytest.mark.parametrize("name", ["somebody", "Certified", "certified ", "thanoproxy"])
    def test_in_another_name(self, vouching: Proxy, authority: Authority, name: str) -> None:
        with pytest.raises(psycopg.OperationalError, match="requires a valid client certificate"):
            psycopg.connect(url(vouching, "certified", **shown(authority.sign(name))))

    def test_of_another_authority(self, vouching: Proxy, tmp_path: Path) -> None:
        with pytest.raises(psycopg.OperationalError, match="unknown ca"):
            psycopg.connect(url(vouching, "certified", **shown(Authority(tmp_path, "stranger").sign("certified"))))

    def test_that_has_expired(self, vouching: Proxy, authority: Authority) -> None:
        with pytest.raises(psycopg.OperationalError, match="certificate expired"):
            psycopg.connect(url(vouching, "certified", **shown(authority.sign("certified", days=-1))))

    def test_a_password_is_still_a_password(self, vouching: Proxy, authority: Authority) -> None:
        """A certificate proves nothing where the server asks for something else."""
        options = shown(authority.sign("cleartext"))
        assert logged_in(url(vouching, "cleartext", PASSWORD, **options)) == ("cleartext", True)
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(url(vouching, "cleartext", "wrong", **options))
