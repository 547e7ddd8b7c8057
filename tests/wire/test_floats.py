"""real[] beside what PostgreSQL itself writes."""

from __future__ import annotations

import struct

import numpy as np
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.databases import Database
from thanoproxy.wire.floats import float4_array

SAMPLES = [0.0, -0.0, 1.0, 0.1, 1e-4, 9.5e-5, -1.5, 3.4028235e38, 1e-45, 123456.0, 999999.94, 1e6, 1234567.0, 12345678.0, 1e9, 16777216.0]
SAMPLES += [-2500000.0, float("inf"), float("-inf"), float("nan"), 0.33333334, 7.038531e-26, 8.0, 8.000001, 9.9999999e-5]


def packed(values: list[float]) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


def servers(connection: psycopg.Connection[tuple[bytes]], values: bytes, format_: int) -> bytes:
    """What PostgreSQL sends of an array of these bit patterns."""
    elements = struct.unpack(f"<{len(values) // 4}f", values)
    cursor = connection.cursor(binary=format_ == 1)
    cursor.execute("SELECT %b::float4[]", [np.array(elements, dtype=np.float32).tolist()])
    assert cursor.pgresult is not None
    found = cursor.pgresult.get_value(0, 0)
    assert found is not None
    return found


@pytest.mark.parametrize("format_", [0, 1])
def test_samples(module_database: Database, format_: int) -> None:
    values = packed(SAMPLES)
    with psycopg.connect(module_database.url) as connection:
        assert float4_array(values, format_) == servers(connection, values, format_)


@settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=50))
def test_as_postgresql_writes_them(module_database: Database, connection: psycopg.Connection[tuple[bytes]], values: list[float]) -> None:
    for format_ in (0, 1):
        assert float4_array(packed(values), format_) == servers(connection, packed(values), format_)


@given(st.lists(st.floats(width=32, allow_nan=False), max_size=50))
def test_text_gives_the_values_again(values: list[float]) -> None:
    read = np.array([float(text) for text in float4_array(packed(values), 0).decode()[1:-1].split(",") if text], dtype=np.float32)
    assert read.tobytes() == np.array(values, dtype=np.float32).tobytes()


@pytest.fixture(scope="module")
def connection(module_database: Database) -> object:
    with psycopg.connect(module_database.url) as open_connection:
        yield open_connection
