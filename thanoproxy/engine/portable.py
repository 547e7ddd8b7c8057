"""A model in one file: safetensors, with the artifact's manifest among the strings that its header may carry.

    eight bytes of length, then the header, JSON:   {"__metadata__": {"thanoproxy": …, "artifact": …, "data_sha256": …}, tensors}
    then the tensors' bytes

So any reader of safetensors can have the weights.  `thanoproxy` is the manifest as it was written, and `artifact` its sha256; the
hashes tell damage and vouch for nothing, since whoever writes a file can write them, too.
(https://huggingface.co/docs/safetensors: a header has at most 100 MB.)
"""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

import msgspec

from thanoproxy.catalog.artifacts import FORMAT, Manifest
from thanoproxy.errors import InvalidOption

__all__ = ["MAX_BYTES", "Portable", "read_manifest", "whole"]

MAX_BYTES = 4 * 1024**3
"""The largest file that is read."""

_MAX_HEADER = 100_000_000
_ALIGNMENT = 8


class Portable(NamedTuple):
    """A file to be written: `head`, then what `weights` holds from `start` on."""

    head: bytes
    weights: bytes
    start: int


def whole(weights: bytes, manifest: bytes) -> Portable:
    """The file for these weights, which are safetensors themselves."""
    header, start = _header(weights)
    metadata = {
        "format": "pt",
        "thanoproxy": manifest.decode(),
        "artifact": hashlib.sha256(manifest).hexdigest(),
        "data_sha256": hashlib.sha256(memoryview(weights)[start:]).hexdigest(),
    }
    text = msgspec.json.encode({**header, "__metadata__": metadata})
    text += b" " * (-len(text) % _ALIGNMENT)
    return Portable(len(text).to_bytes(8, "little") + text, weights, start)


def read_manifest(name: str, data: bytes) -> Manifest | None:
    """What file `name` says of its model; None where it is safetensors without a manifest.  Raises `InvalidOption`."""
    try:
        header, start = _header(data)
        metadata = msgspec.convert(header.get("__metadata__", {}), dict[str, str])
        if "thanoproxy" not in metadata:
            return None
        text = metadata["thanoproxy"].encode()
        manifest = msgspec.json.decode(text, type=Manifest)
    except (msgspec.MsgspecError, ValueError) as error:
        raise InvalidOption(f'model file "{name}" cannot be read', detail=str(error)) from error
    if manifest.format != FORMAT:
        raise InvalidOption(f'model file "{name}" has format {manifest.format}, and this version of thanoproxy reads {FORMAT}')
    same = hashlib.sha256(text).hexdigest() == metadata.get("artifact")
    if not same or hashlib.sha256(memoryview(data)[start:]).hexdigest() != metadata.get("data_sha256"):
        raise InvalidOption(f'model file "{name}" is damaged: its content is not what was exported (sha256 differs)')
    return manifest


def _header(data: bytes) -> tuple[dict[str, Any], int]:
    """The header as JSON and where the tensors begin.  Raises `ValueError` or `msgspec.MsgspecError`."""
    size = int.from_bytes(data[:8], "little")
    if len(data) < 8 or size > min(_MAX_HEADER, len(data) - 8):
        raise ValueError("it is no safetensors file")
    return msgspec.json.decode(memoryview(data)[8 : 8 + size], type=dict[str, Any]), 8 + size
