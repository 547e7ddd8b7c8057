"""Text as SQL that means the same in every session.

A client may have set standard_conforming_strings and client_encoding as it likes.  So literals are E'…' strings of ASCII alone;
other characters are \\uXXXX, which the server turns into its own encoding.
https://www.postgresql.org/docs/18/sql-syntax-lexical.html#SQL-SYNTAX-STRINGS-ESCAPE
"""

from __future__ import annotations

import json
import re

__all__ = ["ascii_json", "copy_line", "identifier", "literal"]

_UNSAFE = re.compile(r"[^ -~]|['\\]")


def literal(text: str) -> str:
    """`text` as a string constant.  A NUL, which PostgreSQL cannot hold, becomes U+FFFD."""
    return "E'" + _UNSAFE.sub(_escaped, text) + "'"


def _escaped(match: re.Match[str]) -> str:
    character = match[0]
    if character == "'":
        return "''"  # not \', which backslash_quote may forbid
    if character == "\\":
        return "\\\\"
    code = ord(character) or 0xFFFD
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def identifier(name: str) -> str:
    """`name` as a delimited identifier (sql-syntax-lexical.html#SQL-SYNTAX-IDENTIFIERS)."""
    quoted = name.replace('"', '""').replace("\0", "\ufffd")
    if name.isascii():
        return f'"{quoted}"'
    escaped = quoted.replace("\\", "\\\\")
    return 'U&"' + "".join(c if c.isascii() else f"\\+{ord(c):06x}" for c in escaped) + '"'


def ascii_json(text: str) -> str:
    """The JSON document `text` in ASCII: outside of its strings there is nothing else anyway."""
    if text.isascii():
        return text
    return "".join(character if character.isascii() else json.dumps(character)[1:-1] for character in text)


def copy_line(*columns: str | None) -> bytes:
    """One line of COPY's text format.  Columns must be ASCII, since the client's encoding is not known here.

    https://www.postgresql.org/docs/18/sql-copy.html#SQL-COPY-FILE-FORMATS-TEXT
    """
    return "\t".join("\\N" if column is None else _copied(column) for column in columns).encode("ascii") + b"\n"


def _copied(column: str) -> str:
    return column.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t")
