"""What type a column of texts is taken for; tests/session/test_copy_files.py has PostgreSQL read all of these."""

from __future__ import annotations

import pytest

from thanoproxy.files.guess import Guess

COLUMNS: dict[str, list[list[str]]] = {
    "bool": [["t", "f"], ["true", "FALSE", ""]],
    "int8": [["20200101"], ["1", "-2", "0"], ["0", "1"], ["9223372036854775807", "-9223372036854775808"], ["", "7"]],
    "float8": [["1", "2.5"], ["1.5", "2"], [".5", "1."], ["1e-3", "1E300"], ["-0.0"], ["nan", "1.5", "-inf"], ["123456789012345", "0.1"]],
    "numeric": [["9223372036854775808"], ["1", "12345678901234567890"], ["1.5", "9999999999999999"], ["1e999"], ["1e-400"]],
    "date": [["2020-02-29", "1999-12-31"]],
    "timestamp": [["2020-01-01 12:30", "2020-01-01T12:30:59.123456"], ["2020-01-01", "2020-01-01 00:00:00"]],
    "timestamptz": [["2020-01-01 12:30:00+02", "2020-01-01T12:30:00Z", "2020-01-01T12:30:00.5-03:30"]],
    "text": [
        ["", ""],
        ["a"],
        ["t", "1"],
        ["1", "t"],
        ["1", "a"],
        ["007"],
        ["+49"],
        ["1 "],
        [" 1"],
        ["1_000"],
        ["1,5"],
        ["0x10"],
        ["٣"],
        ["-"],
        ["."],
        ["e5"],
        ["yes"],
        ["2020-02-30"],
        ["01.02.2020"],
        ["2020-W01-1"],
        ["2020-01-01", "1"],
        ["2020-01-01 25:00"],
        ["2020-01-01 12:30", "2020-01-01 12:30Z"],
        ["0000-01-01"],
        ["null"],
    ],
}
CASES = [(type_, values) for type_, columns in COLUMNS.items() for values in columns]


@pytest.mark.parametrize(("type_", "values"), CASES)
def test_the_narrowest_that_holds_them_all(type_: str, values: list[str]) -> None:
    guess = Guess()
    for value in values:
        guess.see(value)
    assert guess.type == f"pg_catalog.{type_}"


def test_a_very_long_number_costs_nothing() -> None:
    guess = Guess()
    guess.see("9" * 1_000_000)
    assert guess.type == "pg_catalog.text"
