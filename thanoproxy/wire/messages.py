"""Messages as values: the few that we read or write ourselves.

Builders return whole messages; readers take a message's body (what follows its length).  Names follow
https://www.postgresql.org/docs/18/protocol-message-formats.html.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from struct import Struct, pack, unpack_from

from thanoproxy.errors import ProtocolViolation, ThanoError

__all__ = [
    "FLUSH",
    "NO_DATA",
    "PARSE_COMPLETE",
    "SYNC",
    "TERMINATE",
    "Bind",
    "Column",
    "ErrorFields",
    "Parse",
    "add_parameters",
    "bind",
    "close",
    "command_complete",
    "copy_data",
    "copy_done",
    "copy_fail",
    "data_row",
    "describe",
    "error_response",
    "execute",
    "format_code",
    "message",
    "notice",
    "parse",
    "query",
    "read_bind",
    "read_data_row",
    "read_error",
    "read_parameter_description",
    "read_parse",
    "read_row_description",
    "read_string",
    "row_description",
]

_HEAD = Struct("!cI")
_I16 = Struct("!H")
_I32 = Struct("!i")
_COLUMN = Struct("!IhIhih")
_NULL = _I32.pack(-1)


def message(kind: bytes, body: bytes = b"") -> bytes:
    """One message: type byte, length that counts itself, body."""
    return _HEAD.pack(kind, len(body) + 4) + body


FLUSH = message(b"H")
SYNC = message(b"S")
TERMINATE = message(b"X")
PARSE_COMPLETE = message(b"1")
NO_DATA = message(b"n")


@dataclass(frozen=True, slots=True)
class Column:
    """One field of a RowDescription."""

    name: bytes
    type_oid: int
    format: int = 0
    table_oid: int = 0
    attribute: int = 0
    type_size: int = -1
    type_modifier: int = -1


@dataclass(frozen=True, slots=True)
class Parse:
    """A Parse message; `types` are parameter type OIDs, 0 where the server shall infer."""

    name: bytes
    text: bytes
    types: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Bind:
    """A Bind message; `parameters` is the raw middle part (formats and values), which we never look into."""

    portal: bytes
    statement: bytes
    parameters: bytes
    result_formats: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ErrorFields:
    """An ErrorResponse or NoticeResponse by its field codes (protocol-error-fields.html), values still in the client's encoding."""

    fields: dict[bytes, bytes] = field(default_factory=dict)

    @property
    def sqlstate(self) -> str:
        return self.fields.get(b"C", b"XX000").decode("ascii", "replace")

    @property
    def text(self) -> str:
        return self.said("utf-8")

    @property
    def position(self) -> int | None:
        value = self.fields.get(b"P")
        return int(value) if value and value.isdigit() else None

    def with_position(self, position: int | None) -> ErrorFields:
        fields = {code: value for code, value in self.fields.items() if code != b"P"}
        if position is not None:
            fields[b"P"] = b"%d" % position
        return ErrorFields(fields)

    def without_place(self) -> ErrorFields:
        """Without what is said of where in a text it was, and in which functions."""
        return ErrorFields({code: value for code, value in self.fields.items() if code not in (b"P", b"p", b"q", b"W")})

    def said(self, encoding: str) -> str:
        """The message, decoded."""
        return self.fields.get(b"M", b"").decode(encoding, "replace")

    def encode(self, kind: bytes = b"E") -> bytes:
        return message(kind, b"".join(code + value + b"\0" for code, value in self.fields.items()) + b"\0")


def read_string(body: bytes, pos: int) -> tuple[bytes, int]:
    """The NUL-terminated string at `pos` and the place behind it."""
    end = body.find(b"\0", pos)
    if end < 0:
        raise ProtocolViolation("invalid string in message")
    return body[pos:end], end + 1


def read_parse(body: bytes) -> Parse:
    name, pos = read_string(body, 0)
    text, pos = read_string(body, pos)
    if len(body) < pos + 2:
        raise ProtocolViolation("invalid message format")
    (count,) = _I16.unpack_from(body, pos)
    if len(body) != pos + 2 + 4 * count:
        raise ProtocolViolation("invalid message format")
    return Parse(name, text, unpack_from(f"!{count}I", body, pos + 2))


def parse(message_: Parse) -> bytes:
    types = pack(f"!H{len(message_.types)}I", len(message_.types), *message_.types)
    return message(b"P", message_.name + b"\0" + message_.text + b"\0" + types)


def read_bind(body: bytes) -> Bind:
    portal, pos = read_string(body, 0)
    statement, pos = read_string(body, pos)
    start = pos
    try:
        (formats,) = _I16.unpack_from(body, pos)
        pos += 2 + 2 * formats
        (values,) = _I16.unpack_from(body, pos)
        pos += 2
        for _ in range(values):
            (size,) = _I32.unpack_from(body, pos)
            pos += 4 + max(size, 0)
        (count,) = _I16.unpack_from(body, pos)
        results = unpack_from(f"!{count}h", body, pos + 2)
    except Exception as problem:
        raise ProtocolViolation("invalid message format") from problem
    return Bind(portal, statement, body[start:pos], results)


def bind(message_: Bind) -> bytes:
    formats = pack(f"!H{len(message_.result_formats)}h", len(message_.result_formats), *message_.result_formats)
    return message(b"B", message_.portal + b"\0" + message_.statement + b"\0" + (message_.parameters or b"\0\0\0\0") + formats)


def add_parameters(parameters: bytes, values: Sequence[bytes]) -> bytes:
    """The raw middle part of a Bind with `values` behind its own, in binary format."""
    (codes,) = _I16.unpack_from(parameters) if parameters else (0,)
    (count,) = _I16.unpack_from(parameters, 2 + 2 * codes) if parameters else (0,)
    own = unpack_from(f"!{codes}h", parameters, 2) if codes else ()
    formats = [*(format_code(own, i) for i in range(count)), *(1 for _ in values)]
    tail = b"".join(_I32.pack(len(value)) + value for value in values)
    return pack(f"!H{len(formats)}hH", len(formats), *formats, count + len(values)) + parameters[4 + 2 * codes :] + tail


def read_parameters(parameters: bytes) -> list[tuple[int, bytes | None]]:
    """Format and value of each parameter in the raw middle part of a Bind, which the server has found well-formed."""
    if not parameters:
        return []
    (codes,) = _I16.unpack_from(parameters)
    formats = unpack_from(f"!{codes}h", parameters, 2)
    (count,) = _I16.unpack_from(parameters, 2 + 2 * codes)
    values, at = list[tuple[int, bytes | None]](), 4 + 2 * codes
    for i in range(count):
        (size,) = _I32.unpack_from(parameters, at)
        at += 4
        values.append((format_code(formats, i), None if size < 0 else parameters[at : at + size]))
        at += max(size, 0)
    return values


def format_code(formats: Sequence[int], index: int) -> int:
    """The format of column `index` as Bind's codes say it: none is text for all, one goes for all, else one for each."""
    return formats[0] if len(formats) == 1 else formats[index] if index < len(formats) else 0


def describe(kind: bytes, name: bytes) -> bytes:
    """`kind` is b'S' for a statement, b'P' for a portal."""
    return message(b"D", kind + name + b"\0")


def execute(portal: bytes, limit: int = 0) -> bytes:
    return message(b"E", portal + b"\0" + pack("!I", limit))


def close(kind: bytes, name: bytes) -> bytes:
    return message(b"C", kind + name + b"\0")


def query(text: bytes) -> bytes:
    return message(b"Q", text + b"\0")


def copy_data(line: bytes) -> bytes:
    return message(b"d", line)


def copy_done() -> bytes:
    return message(b"c")


def copy_fail(reason: bytes = b"") -> bytes:
    """CopyFail."""
    return message(b"f", reason + b"\0")


def command_complete(tag: bytes) -> bytes:
    return message(b"C", tag + b"\0")


def read_row_description(body: bytes) -> tuple[Column, ...]:
    (count,) = _I16.unpack_from(body, 0)
    pos, columns = 2, []
    for _ in range(count):
        name, pos = read_string(body, pos)
        table, attribute, oid, size, modifier, format_ = _COLUMN.unpack_from(body, pos)
        pos += _COLUMN.size
        columns.append(Column(name, oid, format_, table, attribute, size, modifier))
    return tuple(columns)


def read_parameter_description(body: bytes) -> tuple[int, ...]:
    """The type OIDs of a statement's parameters."""
    (count,) = _I16.unpack_from(body)
    return unpack_from(f"!{count}I", body, 2)


def row_description(columns: Sequence[Column]) -> bytes:
    parts = [_I16.pack(len(columns))]
    for c in columns:
        parts.append(c.name + b"\0")
        parts.append(_COLUMN.pack(c.table_oid, c.attribute, c.type_oid, c.type_size, c.type_modifier, c.format))
    return message(b"T", b"".join(parts))


def read_data_row(body: bytes) -> list[bytes | None]:
    (count,) = _I16.unpack_from(body, 0)
    pos, values = 2, list[bytes | None]()
    for _ in range(count):
        (size,) = _I32.unpack_from(body, pos)
        pos += 4
        if size < 0:
            values.append(None)
        else:
            values.append(body[pos : pos + size])
            pos += size
    return values


def data_row(values: Iterable[bytes | None]) -> bytes:
    fields = [_NULL if v is None else _I32.pack(len(v)) + v for v in values]
    return message(b"D", _I16.pack(len(fields)) + b"".join(fields))


def read_error(body: bytes) -> ErrorFields:
    fields, pos = {}, 0
    while pos < len(body) and body[pos] != 0:
        code = body[pos : pos + 1]
        fields[code], pos = read_string(body, pos + 1)
    return ErrorFields(fields)


def error_response(error: ThanoError, severity: str = "ERROR", encoding: str = "utf-8") -> bytes:
    """Our error as the client's driver expects one: S, V, C and M always, the rest where known."""
    fields = {b"S": severity, b"V": severity, b"C": error.sqlstate, b"M": error.message}
    optional = {b"D": error.detail, b"H": error.hint, b"P": None if error.position is None else str(error.position)}
    fields.update({code: value for code, value in optional.items() if value is not None})
    return ErrorFields({code: _text(value, encoding) for code, value in fields.items()}).encode()


def notice(
    text: str,
    *,
    severity: str = "NOTICE",
    sqlstate: str = "00000",
    detail: str | None = None,
    hint: str | None = None,
    routine: str | None = None,
    encoding: str = "utf-8",
) -> bytes:
    fields = {b"S": severity, b"V": severity, b"C": sqlstate, b"M": text}
    fields |= {code: value for code, value in ((b"D", detail), (b"H", hint), (b"R", routine)) if value is not None}
    return ErrorFields({code: _text(value, encoding) for code, value in fields.items()}).encode(b"N")


def _text(value: str, encoding: str) -> bytes:
    return value.replace("\0", "\\0").encode(encoding, "replace")
