"""The settings that say where images may come from."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator
from pydantic_settings import NoDecode

from thanoproxy.section import File, Folders, Names, Section, absolute, listed

__all__ = ["Images", "Store"]

_NAME, _ADDRESS, _PORT = r"[a-z0-9_-]+(\.[a-z0-9_-]+)*", r"\[[0-9a-f:.]+\]", r"(:[1-9][0-9]{0,4})?"
_PRIVATE_HOST = re.compile(rf"({_NAME}|{_ADDRESS}){_PORT}")
_URL_HOST = re.compile(rf"(\*|(\*\.)?{_NAME}|{_ADDRESS}){_PORT}")
_STORE_URL = re.compile(r"(?P<scheme>s3|gs|az)://(?P<bucket>[A-Za-z0-9$._-]+)(/(?P<prefix>[^?#]*))?")
_ENDPOINT = re.compile(r"https?://[^\s/?#@]+(/[^\s?#]*)?")


class Store(Section):
    """A bucket that images may come from; in its short form the URL alone."""

    url: str = Field(
        description="s3://bucket, gs://bucket or az://container; with a prefix behind it only what lies below that may be read"
    )
    endpoint: str | None = Field(default=None, description="URL of the server, for one that is not the provider's own, such as MinIO")
    region: str | None = Field(default=None, min_length=1, description="for s3: the region; else AWS_REGION of the environment")
    account: str | None = Field(default=None, min_length=1, description="for az: the storage account; else AZURE_STORAGE_ACCOUNT_NAME")
    credentials: str = Field(
        default="environment",
        min_length=1,
        description="environment: as the provider's own tools find them there; anonymous; or a file that holds them",
    )

    @field_validator("url")
    @classmethod
    def _bucket(cls, url: str) -> str:
        if _STORE_URL.fullmatch(url) is None:
            raise ValueError("should be s3://bucket, gs://bucket or az://container, with a prefix if need be")
        return url

    @field_validator("endpoint")
    @classmethod
    def _server(cls, endpoint: str | None) -> str | None:
        if endpoint is not None and _ENDPOINT.fullmatch(endpoint) is None:
            raise ValueError("should be https://host or http://host, without a password")
        return endpoint

    @field_validator("credentials")
    @classmethod
    def _file(cls, credentials: str) -> str:
        return credentials if credentials in ("environment", "anonymous") else str(absolute(Path(credentials)))

    @property
    def parts(self) -> tuple[str, str, str]:
        """Scheme, bucket and prefix in `url`; '' for no prefix."""
        parts = _STORE_URL.fullmatch(self.url)
        assert parts is not None, "validated"
        return parts["scheme"], parts["bucket"], (parts["prefix"] or "").strip("/")


def _stores(value: object) -> object:
    found = listed(value)
    return [{"url": one} if isinstance(one, str) else one for one in found] if isinstance(found, list | tuple) else found


class Images(Section):
    """Where images may come from besides bytea columns; see [Images from elsewhere](operations.md#images-from-elsewhere)."""

    roots: Folders = Field(default=(), description="folders that image paths are looked up in, in this order; no other file is read")
    url_hosts: Names = Field(
        default=(),
        description="hosts that https:// URLs may name, at addresses of the internet; `*.example.com` is every name below, `*` every "
        "host; a port other than 443 follows a colon",
    )
    private_url_hosts: Names = Field(default=(), description="the same for hosts that may lie in a private network, by their exact names")
    stores: Annotated[tuple[Store, ...], NoDecode, BeforeValidator(_stores)] = Field(
        default=(), description="buckets that s3://, gs:// and az:// URLs may name: URLs, or tables as below"
    )
    ca: File | None = Field(default=None, description="PEM file of authorities besides the system's, for hosts and endpoints")
    remote_timeout: float = Field(
        default=30.0, gt=0, le=3600, description="seconds that an image from a URL or a store may take, all attempts together"
    )
    remote_reads: int = Field(default=64, ge=1, le=4096, description="images from URLs and stores that each worker reads at once")

    @field_validator("url_hosts", "private_url_hosts")
    @classmethod
    def _hosts(cls, hosts: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        form = _URL_HOST if info.field_name == "url_hosts" else _PRIVATE_HOST
        for host in hosts:
            if form.fullmatch(host.lower()) is None:
                raise ValueError(f"{host!r} should be a host, with a port if that is not 443; names of other scripts as xn--…")
        return tuple(host.lower() for host in hosts)

    @field_validator("stores")
    @classmethod
    def _different(cls, stores: tuple[Store, ...]) -> tuple[Store, ...]:
        if len({store.parts for store in stores}) < len(stores):
            raise ValueError("two of them have the same url")
        return stores
