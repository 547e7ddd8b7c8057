"""What the sources of images are told: plain data, so that it can cross to another process."""

from __future__ import annotations

import msgspec

__all__ = ["RemoteSettings", "StoreSettings"]


class StoreSettings(msgspec.Struct, frozen=True, kw_only=True):
    """A bucket, or what lies below a prefix in it; `scheme` is s3, gs or az.

    `credentials`: 'environment', 'anonymous', or the path of a file that holds them.
    """

    scheme: str
    bucket: str
    prefix: str = ""
    endpoint: str | None = None
    region: str | None = None
    account: str | None = None
    credentials: str = "environment"


class RemoteSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What may be read over the network: nothing unless it is named here.

    `ca`: a PEM file of authorities besides the system's.  `timeout`: seconds for one image, all attempts together.  `reads`: how many
    images may be on their way at once.
    """

    url_hosts: tuple[str, ...] = ()
    private_url_hosts: tuple[str, ...] = ()
    stores: tuple[StoreSettings, ...] = ()
    ca: str | None = None
    timeout: float = 30.0
    reads: int = 64
