"""Images in object stores: s3://, gs:// and az:// URLs, of buckets that the operator has named.

obstore (the Rust crate object_store) knows how each store is asked and how requests are signed.  A row chooses nothing but a key below a
prefix that is allowed: host, region and credentials are the operator's, so there is no address to be checked.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

from thanoproxy.errors import ConfigurationError, FeatureNotSupported, InsufficientPrivilege
from thanoproxy.images.settings import RemoteSettings, StoreSettings
from thanoproxy.images.source import MAX_BYTES, Distant, Setup, not_arrived, shown, too_large, unavailable

__all__ = ["StoredObject"]

RETRIES = 2
CONNECT_SECONDS = 5.0
PART = 1024 * 1024
"""Bytes that are waited for before they are looked at; most images are one part."""

# By scheme: the class in obstore.store, and what a file of credentials may say.
_STORES = {
    "s3": ("S3Store", frozenset({"access_key_id", "secret_access_key", "session_token"})),
    "gs": ("GCSStore", frozenset[str]()),  # its file is the service account's own
    "az": ("AzureStore", frozenset({"account_key", "sas_key", "client_id", "client_secret", "tenant_id"})),
}


class StoredObject(Distant):
    """`s3://bucket/key`, `gs://bucket/key`, `az://container/key`; the key as it stands, nothing in it is an escape."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        # Of two prefixes the longer one says more.
        longest_first = sorted(setup.remote.stores, key=lambda store: -len(store.prefix))
        self._stores = [(store, open_store(store, setup.remote)) for store in longest_first]

    @classmethod
    def open(cls, setup: Setup) -> Self:
        return cls(setup)

    def claims(self, image: str | bytes) -> bool:
        return isinstance(image, str) and _split(image)[0] in _STORES

    def place(self, image: str) -> str:
        scheme, bucket, _ = _split(image)
        return f"{scheme}://{bucket}"

    async def fetch(self, image: str) -> bytes:
        import obstore

        store, key = self._find(image)
        try:
            found = await obstore.get_async(store, key)
            if found.meta["size"] > MAX_BYTES:
                raise too_large(image)
            body = bytearray()
            async for part in found.stream(PART):
                body += part
                if len(body) > MAX_BYTES:
                    raise too_large(image)
        except _not_there():
            raise unavailable(image) from None
        except obstore.exceptions.BaseError:
            raise not_arrived(image, "the store does not answer as it should") from None
        return bytes(body)

    def _find(self, image: str) -> tuple[Any, str]:
        """Where it is, and the key there."""
        if not self._stores:
            raise FeatureNotSupported(
                f"images cannot be read from {shown(image)}",
                hint="Reading images from object stores is off: no bucket is named in the setting images.stores.",
            )
        scheme, bucket, key = _split(image)
        for store, opened in self._stores:
            if (store.scheme, store.bucket) == (scheme, bucket) and (not store.prefix or key.startswith(store.prefix + "/")):
                return opened, key
        raise InsufficientPrivilege(
            f"image {shown(image)} may not be read: its bucket, or this part of it, is not allowed",
            hint="Buckets have to be named in the setting images.stores.",
        )


def open_store(store: StoreSettings, remote: RemoteSettings) -> Any:
    """A store of obstore, not yet connected.  Raises `ConfigurationError`."""
    try:
        import obstore.store
    except ImportError:
        raise ConfigurationError("images.stores needs obstore: pip install 'thanoproxy[remote]'") from None
    kind, known = _STORES[store.scheme]
    timeout = timedelta(seconds=remote.timeout)
    client: dict[str, Any] = {"timeout": timeout, "connect_timeout": min(timeout, timedelta(seconds=CONNECT_SECONDS))}
    if (store.endpoint or "").startswith("http://"):
        client["allow_http"] = True
    if remote.ca is not None:
        client["root_certificate"] = _read(remote.ca, "images.ca")
    try:
        return getattr(obstore.store, kind)(
            store.bucket,
            config={**_place(store), **_credentials(store, known)},
            client_options=client,
            retry_config={"max_retries": RETRIES, "retry_timeout": timeout},
        )
    except (ValueError, obstore.exceptions.BaseError):  # its text may hold what the environment does
        raise ConfigurationError(f"images.stores: {store.scheme}://{store.bucket} cannot be used as it is configured") from None


def _place(store: StoreSettings) -> dict[str, str]:
    given = {
        "s3": {"endpoint": store.endpoint, "region": store.region},
        "gs": {"base_url": store.endpoint},
        "az": {"endpoint": store.endpoint, "account_name": store.account},
    }
    return {name: value for name, value in given[store.scheme].items() if value is not None}


def _credentials(store: StoreSettings, known: Sequence[str] | frozenset[str]) -> dict[str, Any]:
    if store.credentials == "environment":
        return {}
    if store.credentials == "anonymous":
        return {"skip_signature": True}
    if store.scheme == "gs":
        return {"service_account": store.credentials}
    name = f"images.stores: the credentials of {store.scheme}://{store.bucket}"
    try:
        given = tomllib.loads(_read(store.credentials, name))
    except ValueError:  # a parser's message quotes what it stumbles on
        raise ConfigurationError(f"{name} are not valid TOML: {store.credentials}") from None
    if not given or not given.keys() <= set(known):
        raise ConfigurationError(f"{name} should be of {', '.join(sorted(known))}: {store.credentials}")
    return given


def _read(file: str, name: str) -> str:
    try:
        return Path(file).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{name}: {file} cannot be read: {getattr(error, 'strerror', None) or 'it is no text'}") from None


def _not_there() -> tuple[type[BaseException], ...]:
    from obstore import exceptions

    # ValueError: a key that no object has, such as one with `..` in it.
    return FileNotFoundError, exceptions.PermissionDeniedError, exceptions.UnauthenticatedError, ValueError


def _split(image: str | bytes) -> tuple[str, str, str]:
    """Scheme, bucket and key; empty where there is none."""
    if not isinstance(image, str) or "://" not in image[:5]:
        return "", "", ""
    scheme, _, rest = image.partition("://")
    bucket, _, key = rest.partition("/")
    return scheme.lower(), bucket, key
