"""What `thanoproxy check` says of TLS: every file is loaded as the server loads it, and until when it is good."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from thanoproxy.commands.findings import Finding, fail, note, ok
from thanoproxy.config import Settings
from thanoproxy.errors import ConfigurationError
from thanoproxy.tls.clients import SCRAM_BETWEEN, server_tls
from thanoproxy.tls.files import Lifetime, lifetimes, revoked_until
from thanoproxy.tls.upstream import SYSTEM, revoked_file, root_file, upstream_tls

__all__ = ["examine_certificates"]

SOON = timedelta(days=30)


def examine_certificates(settings: Settings) -> Iterator[Finding]:
    """Both legs, one after the other; nothing for a leg that has no TLS."""
    for leg in (examine_clients, examine_upstream):
        try:
            yield from leg(settings)
        except ConfigurationError as error:
            yield fail("tls", error.message)
    if settings.auth.mode == "relay" and settings.tls.mode != "off" and upstream_encrypts(settings):
        yield note("tls", SCRAM_BETWEEN)


def examine_clients(settings: Settings) -> Iterator[Finding]:
    """Raises `ConfigurationError`."""
    tls = settings.tls
    if server_tls(tls) is None:
        return
    assert tls.certificate is not None, "Tls checks it"
    yield from examine_chain(tls.certificate, "tls.certificate")
    if tls.client_ca is not None:
        yield from examine_roots(tls.client_ca, "tls.client_ca")


def examine_upstream(settings: Settings) -> Iterator[Finding]:
    """Raises `ConfigurationError`."""
    if not upstream_encrypts(settings):
        return
    options = settings.upstream.address.options
    upstream_tls(options, vouch=settings.upstream.vouch)
    roots, revoked = root_file(options), revoked_file(options)
    if roots is not None:
        yield from examine_roots(roots, "sslrootcert")
    elif options.get("sslrootcert") == SYSTEM:
        yield ok("tls", "sslrootcert: what the system trusts")
    if revoked is not None:
        yield examine_list(revoked, "sslcrl")
    if options.get("sslcert"):
        yield from examine_chain(Path(options["sslcert"]), "sslcert")


def upstream_encrypts(settings: Settings) -> bool:
    if settings.upstream.url is None:
        return False
    address = settings.upstream.address
    return address.socket_directory is None and address.options.get("sslmode") != "disable"


def examine_chain(file: Path, setting: str) -> Iterator[Finding]:
    """A certificate that we show; it is worth nothing once one of its chain has expired."""
    for one in lifetimes(file, setting):
        yield judge(one, f"{setting}: {file}: {one.name}")


def examine_roots(file: Path, setting: str) -> Iterator[Finding]:
    """Authorities that we believe.  A bundle always has old ones in it, so only all of them together can be wrong."""
    found = lifetimes(file, setting)
    if not found:
        yield ok("tls", f"{setting}: {file}")
        return
    last = max(found, key=lambda one: one.end)
    yield judge(last, f"{setting}: {file}: " + (last.name if len(found) == 1 else f"{len(found)} authorities, of which {last.name}"))


def examine_list(file: Path, setting: str) -> Finding:
    until = revoked_until(file, setting)
    if until is None:
        return ok("tls", f"{setting}: {file}")
    if until <= now():
        # OpenSSL believes no certificate of an authority whose list is too old.
        return fail("tls", f"{setting}: {file}: should have been replaced on {day(until)}")
    return ok("tls", f"{setting}: {file}: until {day(until)}")


def judge(one: Lifetime, text: str) -> Finding:
    if one.end <= now():
        return fail("tls", f"{text} has expired on {day(one.end)}")
    if one.begin > now():
        return fail("tls", f"{text} is not valid before {day(one.begin)}")
    if one.end - now() < SOON:
        return note("tls", f"{text} expires soon, on {day(one.end)}")
    return ok("tls", f"{text} until {day(one.end)}")


def now() -> datetime:
    return datetime.now(UTC)


def day(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d}"
