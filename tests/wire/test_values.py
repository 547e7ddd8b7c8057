"""Fields read from and added to rows, beside what PostgreSQL's own text and binary formats say."""

from __future__ import annotations

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.databases import Database
from thanoproxy.errors import WrongType
from thanoproxy.wire.messages import data_row, read_data_row
from thanoproxy.wire.values import FLOAT8, INT4, TEXT, TEXT_ARRAY, append_fields, bytea, encode_value, field_at, float8_array, jsonb

FIELDS = st.lists(st.none() | st.binary(max_size=30), max_size=20)


@given(FIELDS, FIELDS)
def test_append_fields_keeps_the_row(row: list[bytes | None], more: list[bytes | None]) -> None:
    appended = append_fields(data_row(row)[5:], more)
    assert appended == data_row([*row, *more])
    assert read_data_row(appended[5:]) == row + more


@given(FIELDS.filter(bool), st.integers(0, 100))
def test_field_at(row: list[bytes | None], index: int) -> None:
    index %= len(row)
    assert field_at(data_row(row)[5:], index) == row[index]


@pytest.mark.parametrize(
    ("value", "format_", "expected"),
    [(b"\\x00ff", 0, b"\0\xff"), (b"\0\xff", 1, b"\0\xff"), (b"a\\\\b\\000\\377", 0, b"a\\b\0\xff"), (b"", 0, b"")],
)
def test_bytea(value: bytes, format_: int, expected: bytes) -> None:
    assert bytea(value, format_) == expected


def test_bytea_refuses_half_a_byte() -> None:
    with pytest.raises(WrongType):
        bytea(b"\\x0", 0)


@pytest.mark.parametrize(
    ("value", "oid", "text", "binary"),
    [
        (7, INT4, b"7", b"\0\0\0\x07"),
        (24.0, FLOAT8, b"24", b"\x40\x38\0\0\0\0\0\0"),
        (0.5, FLOAT8, b"0.5", b"\x3f\xe0\0\0\0\0\0\0"),
        ("ä", TEXT, "ä".encode(), "ä".encode()),
        (["a", 'b"\\'], TEXT_ARRAY, b'{a,"b\\"\\\\"}', None),
        (None, INT4, None, None),
    ],
)
def test_encode_value(value: object, oid: int, text: bytes | None, binary: bytes | None) -> None:
    assert encode_value(value, oid, 0, "utf-8") == text
    if oid != TEXT_ARRAY:
        assert encode_value(value, oid, 1, "utf-8") == binary


@pytest.mark.parametrize("format_", [0, 1])
def test_arrays_and_jsonb_are_what_postgresql_sends(empty_database: Database, format_: int) -> None:
    values = [0.0, 1.0, 0.5, 1e-05, 1.234e-30, 0.9234567284584045]
    with psycopg.connect(empty_database.url) as connection:
        cursor = connection.cursor(binary=format_ == 1)
        cursor.execute("SELECT %s::float8[], '{}'::float8[], '{\"a\": 0.5, \"bb\": 1}'::jsonb", [values])
        assert cursor.pgresult is not None
        theirs = [cursor.pgresult.get_value(0, column) for column in range(3)]
    assert theirs == [float8_array(values, format_), float8_array([], format_), jsonb(b'{"a": 0.5, "bb": 1}', format_)]
