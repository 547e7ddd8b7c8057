"""Values inside rows, without unpacking the rows: one field read, fields appended."""

from __future__ import annotations

import binascii
from collections.abc import Sequence
from struct import Struct

from thanoproxy.errors import WrongType

__all__ = [
    "BYTEA",
    "FLOAT4_ARRAY",
    "FLOAT8",
    "FLOAT8_ARRAY",
    "INT4",
    "INT8",
    "JSONB",
    "SIZES",
    "SQL_NAMES",
    "TEXT",
    "TEXT_ARRAY",
    "TEXT_TYPES",
    "WHOLE_NUMBERS",
    "append_fields",
    "array_text",
    "bytea",
    "encode_value",
    "field_at",
    "float8_array",
    "jsonb",
    "text_array",
    "whole_number",
]

_I16 = Struct("!H")
_I32 = Struct("!i")

# pg_type.dat; stable since these types exist.
BYTEA, INT8, INT2, INT4, TEXT, FLOAT8, TEXT_ARRAY, FLOAT4_ARRAY, FLOAT8_ARRAY, JSONB = 17, 20, 21, 23, 25, 701, 1009, 1021, 1022, 3802
WHOLE_NUMBERS = frozenset({INT2, INT4, INT8})
SQL_NAMES = {
    INT8: "pg_catalog.int8",
    TEXT: "pg_catalog.text",
    FLOAT8: "pg_catalog.float8",
    TEXT_ARRAY: "pg_catalog.text[]",
    FLOAT4_ARRAY: "pg_catalog.float4[]",
    FLOAT8_ARRAY: "pg_catalog.float8[]",
    JSONB: "pg_catalog.jsonb",
}
"""Types of columns that we make, as SQL writes them."""
SIZES = {INT8: 8, FLOAT8: 8}
"""Those of them that are of one size (pg_type.typlen)."""
TEXT_TYPES = frozenset({TEXT, 1043, 1042, 19, 705})
"""text, varchar, bpchar, name, and an untyped literal: types whose binary and text formats are the same bytes."""


def field_at(body: bytes, index: int) -> bytes | None:
    """Field `index` of a DataRow's body; None for NULL."""
    pos = 2
    unpack = _I32.unpack_from
    for _ in range(index):
        (size,) = unpack(body, pos)
        pos += 4 + size if size > 0 else 4
    (size,) = unpack(body, pos)
    return None if size < 0 else body[pos + 4 : pos + 4 + size]


def append_fields(body: bytes, values: Sequence[bytes | None]) -> bytes:
    """The whole DataRow message with `values` added behind the row's own fields."""
    tail = b"".join(_I32.pack(-1) if v is None else _I32.pack(len(v)) + v for v in values)
    (count,) = _I16.unpack_from(body)
    return b"".join((b"D", _I32.pack(len(body) + len(tail) + 4), _I16.pack(count + len(values)), body[2:], tail))


def encode_value(value: object, type_oid: int, format_: int, codec: str) -> bytes | None:
    """A value of ours as a field of one of the types above; `format_` 1 is binary, as each type's send function writes it."""
    if value is None:
        return None
    if type_oid == TEXT_ARRAY:
        assert isinstance(value, list | tuple), "text[] is made of a sequence"
        items = [str(item).encode(codec, "replace") for item in value]
        return text_array(items) if format_ == 1 else array_text(items)
    packer = _BINARY.get(type_oid)
    if format_ == 1 and packer is not None:
        return packer.pack(value)
    text = str(value)
    return (text.removesuffix(".0") if type_oid == FLOAT8 else text).encode(codec, "replace")


_BINARY = {INT4: Struct("!i"), INT8: Struct("!q"), FLOAT8: Struct("!d")}
_ARRAY_HEAD = Struct("!iiIii")


def whole_number(value: bytes | None, format_: int) -> int | None:
    """An int2, int4 or int8; None for NULL, and for text that is none (the server says so)."""
    if value is None:
        return None
    if format_ == 1:
        return int.from_bytes(value, "big", signed=True)
    try:
        return int(value)
    except ValueError:
        return None


def text_array(items: Sequence[bytes | None]) -> bytes:
    """A text[] in binary format (array_recv); None is NULL."""
    return _binary_array(items, TEXT)


def float8_array(values: Sequence[float], format_: int) -> bytes:
    """A float8[]; `format_` 1 is binary."""
    items = [encode_value(value, FLOAT8, format_, "ascii") for value in values]
    return _binary_array(items, FLOAT8) if format_ == 1 else array_text(items)


def _binary_array(items: Sequence[bytes | None], type_oid: int) -> bytes:
    head = _ARRAY_HEAD.pack(1, None in items, type_oid, len(items), 1) if items else _ARRAY_HEAD.pack(0, 0, type_oid, 0, 0)[:12]
    return head + b"".join(_I32.pack(-1) if item is None else _I32.pack(len(item)) + item for item in items)


def jsonb(text: bytes, format_: int) -> bytes:
    """A jsonb; in binary format its version stands before the text (jsonb_recv)."""
    return b"\1" + text if format_ == 1 else text


def array_text(items: Sequence[bytes | None]) -> bytes:
    """An array of `items`, each in text format, as array_out writes it; None is NULL."""
    written = {item: b"NULL" if item is None else item if _plain(item) else _quoted(item) for item in set(items)}
    return b"{" + b",".join([written[item] for item in items]) + b"}"


def _quoted(item: bytes) -> bytes:
    return b'"' + item.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'


def _plain(item: bytes) -> bool:
    """Whether array_out writes `item` without quotes."""
    return bool(item) and item.upper() != b"NULL" and not any(byte in b'{},"\\ \t\n\r\v\f' for byte in item)


def bytea(value: bytes, format_: int) -> bytes:
    """The bytes of a bytea field; `format_` 0 is text (hex or, with bytea_output=escape, escaped)."""
    if format_ == 1:
        return value
    if value.startswith(b"\\x"):
        try:
            return binascii.unhexlify(value[2:])
        except binascii.Error as problem:
            raise WrongType("invalid hexadecimal data in a bytea value") from problem
    return _unescape(value)


def _unescape(value: bytes) -> bytes:
    head, *rest = value.split(b"\\")
    parts = [head]
    pieces = iter(rest)
    for piece in pieces:
        if piece == b"":
            parts.append(b"\\" + next(pieces, b""))
        else:
            parts.append(bytes((int(piece[:3], 8),)) + piece[3:])
    return b"".join(parts)
