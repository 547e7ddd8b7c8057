"""A model as the catalogue knows it."""

from __future__ import annotations

from typing import Any

import msgspec

__all__ = ["ModelRecord"]


class ModelRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One row of thanosql.model_version.  `artifact` is the content hash in the artifact store; `mac` seals what it belongs to.

    `sealed_name` and `sealed_owner` are what name and owner were when the version was made; None where they are still the same.
    `job` is the one that made it.
    """

    name: str
    version: int
    owner: str
    architecture: str
    artifact: str
    classes: tuple[str, ...]
    options: dict[str, Any]
    metrics: dict[str, float | str | None]
    images: int
    size_bytes: int
    mac: bytes = b""
    sealed_name: str | None = None
    sealed_owner: str | None = None
    job: str | None = None
