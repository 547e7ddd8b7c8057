"""Do the hosts and stores that images may come from answer?  For `thanoproxy check`; nothing is read from them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Literal

from thanoproxy.errors import ConfigurationError
from thanoproxy.images import https, stores
from thanoproxy.images.hosts import Hosts, split_host
from thanoproxy.images.settings import RemoteSettings, StoreSettings

__all__ = ["SECONDS", "examine"]

SECONDS = 10.0
"""What each of them has to answer in; all are asked at once."""

_NO_OBJECT = ".thanoproxy-check"

Verdict = tuple[Literal["ok", "note", "FAIL"], str]


def examine(remote: RemoteSettings) -> list[Verdict]:
    """One verdict for each host without a `*`, and for each store."""
    return asyncio.run(_examine(remote))


async def _examine(remote: RemoteSettings) -> list[Verdict]:
    hosts = Hosts(remote.url_hosts, remote.private_url_hosts)
    asked: list[Awaitable[Verdict]] = [
        _in_time(f"images.{setting}: {entry}", _host(hosts, entry))
        for setting in ("url_hosts", "private_url_hosts")
        for entry in getattr(remote, setting)
        if not entry.startswith("*")
    ]
    asked += [_in_time(f"images.stores: {_name(store)}", _store(store, remote)) for store in remote.stores]
    return list(await asyncio.gather(*asked))


async def _in_time(name: str, asking: Awaitable[Verdict]) -> Verdict:
    try:
        async with asyncio.timeout(SECONDS):
            verdict, text = await asking
    except ConfigurationError as error:
        return "FAIL", error.message
    except TimeoutError:
        verdict, text = "FAIL", f"does not answer within {SECONDS:.0f} s"
    return verdict, f"{name} {text}"


async def _host(hosts: Hosts, entry: str) -> Verdict:
    """An operator may be told more than a user: here a host without an address is not one with a private address."""
    host, port = split_host(entry)
    try:
        found = [address for _, address in await https.look_up(host, port, 0)]
    except OSError:
        return "FAIL", "has no address"
    if not all(hosts.admits_address(host, port, address) for address in found):
        return "FAIL", f"has an address that may not be used ({', '.join(found)}); images.private_url_hosts is for private networks"
    return "ok", f"is at {', '.join(dict.fromkeys(found))}"


async def _store(store: StoreSettings, remote: RemoteSettings) -> Verdict:
    opened = stores.open_store(store, remote)
    import obstore

    try:
        await obstore.head_async(opened, f"{store.prefix}/{_NO_OBJECT}".lstrip("/"))
    except FileNotFoundError:
        return "ok", "answers"
    except (obstore.exceptions.PermissionDeniedError, obstore.exceptions.UnauthenticatedError):
        # For an object that is not there, S3 answers so as well to those who may read the bucket and not list it.
        return "note", "answers that we may not see what is in it: wrong credentials, or no right to list"
    except obstore.exceptions.BaseError:
        return "FAIL", "does not answer as a store should"
    return "ok", "answers"


def _name(store: StoreSettings) -> str:
    return f"{store.scheme}://{store.bucket}" + (f"/{store.prefix}" if store.prefix else "")
