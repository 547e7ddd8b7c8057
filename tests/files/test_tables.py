"""CSV and parquet files: their columns, and what is wrong with them before PostgreSQL sees a row."""

from __future__ import annotations

import builtins
import datetime
import decimal
import io
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from thanoproxy.errors import BadFileFormat, DuplicateColumn, FeatureNotSupported, FileUnavailable, InvalidOption, ThanoError
from thanoproxy.files import Table, Wanted, delimited, open_table, parquet


def opened(root: Path, source: str, **more: Any) -> Table:
    return open_table(Wanted(source=source, image_roots=("/",), file_roots=(str(root),), **more))


def all_of(root: Path, source: str) -> bytes:
    with closing(opened(root, source)) as table:
        return b"".join(table.parts())


def columns(root: Path, source: str) -> dict[str, str]:
    table = opened(root, source)
    table.close()
    return {field.name: field.type.removeprefix("pg_catalog.") for field in table.fields}


def written(root: Path, data: bytes | str, name: str = "a.csv") -> str:
    (root / name).write_bytes(data.encode() if isinstance(data, str) else data)
    return name


class TestCsv:
    def test_the_header_names_the_columns(self, tmp_path: Path) -> None:
        source = written(tmp_path, 'id, Name ,"a ""b"",\nc"\n1,x,y\n')
        assert columns(tmp_path, source) == {"id": "int8", "Name": "text", 'a "b",\nc': "text"}

    def test_all_rows_count_for_a_type(self, tmp_path: Path) -> None:
        rows = "".join(f"{i},{i},2020-01-01\n" for i in range(5000))
        assert columns(tmp_path, written(tmp_path, f"a,b,c\n{rows}x,1.5,\n")) == {"a": "text", "b": "float8", "c": "date"}

    @pytest.mark.parametrize("data", [b"a,b\r\n1,2\r\n", b"a,b\r1,2\r", b"\xef\xbb\xbfa,b\n1,2", b'"a","b"\n"1","2"\n'])
    def test_its_bytes_go_on_as_they_are(self, tmp_path: Path, data: bytes) -> None:
        source = written(tmp_path, data)
        assert columns(tmp_path, source) == {"a": "int8", "b": "int8"}
        table = opened(tmp_path, source)
        assert b"".join(table.parts()) == data.removeprefix(b"\xef\xbb\xbf")
        table.close()

    def test_tabs(self, tmp_path: Path) -> None:
        source = written(tmp_path, "a\tb\n1\tx,y\n", "a.TSV")
        assert columns(tmp_path, source) == {"a": "int8", "b": "text"}
        table = opened(tmp_path, source)
        assert table.format.delimiter == "\t"
        table.close()

    def test_a_header_alone(self, tmp_path: Path) -> None:
        assert columns(tmp_path, written(tmp_path, "a,b")) == {"a": "text", "b": "text"}

    def test_bytes_that_are_no_utf8_are_left_to_the_server(self, tmp_path: Path) -> None:
        assert columns(tmp_path, written(tmp_path, b"a\n\xff\n")) == {"a": "text"}

    @pytest.mark.parametrize(
        ("data", "error", "message"),
        [
            (b"", BadFileFormat, "is empty"),
            (b"a,,c\n1,2,3\n", BadFileFormat, "line 1 .* gives column 2 no name"),
            (b"a,b,a\n1,2,3\n", DuplicateColumn, 'column "a" is named twice'),
            (b"a,\xff\n", BadFileFormat, "line 1 .* no UTF-8 in the name of column 2"),
            (b"a\n1\n\\.\n2\n", BadFileFormat, r"line 3 .* is \\\."),
            (b'a\n1\n"xxxxxxxxxxxxxxxxxxxxx\nxxxxxxxxxxxxxxxxxxxxxxx\nxxxxxx', BadFileFormat, "line 4 .* field that is too long"),
            (b"a\n" + b"x" * 100, BadFileFormat, "line 2 .* is too long"),
        ],
    )
    def test_mistakes(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes, error: type[ThanoError], message: str) -> None:
        monkeypatch.setattr(delimited, "LONGEST", 30)
        with pytest.raises(error, match=message):
            opened(tmp_path, written(tmp_path, data))

    def test_where_they_may_lie(self, tmp_path: Path) -> None:
        written(tmp_path, "a\n1\n", "out.csv")
        (tmp_path / "files").mkdir()
        (tmp_path / "files" / "link.csv").symlink_to(tmp_path / "out.csv")
        for source in ("../out.csv", str(tmp_path / "out.csv"), "link.csv", "nothing.csv"):
            with pytest.raises(FileUnavailable, match="is not available"):
                opened(tmp_path / "files", source)
        with pytest.raises(FeatureNotSupported) as caught:
            open_table(Wanted(source="out.csv", image_roots=(str(tmp_path),), file_roots=()))
        assert "files.roots" in str(caught.value.hint)

    def test_it_has_names_of_its_own(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidOption, match='"label_col" is for images'):
            opened(tmp_path, written(tmp_path, "a\n1\n"), label_col="x")


UTC = datetime.UTC
ARROW: dict[str, tuple[Any, list[Any], list[str]]] = {
    "bool": (pyarrow.bool_(), [True, None], ["true", ""]),
    "int2": (pyarrow.uint8(), [255, None], ["255", ""]),
    "int4": (pyarrow.uint16(), [65535, None], ["65535", ""]),
    "int8": (pyarrow.uint32(), [2**32 - 1, None], ["4294967295", ""]),
    "numeric": (pyarrow.uint64(), [2**64 - 1, None], ["18446744073709551615", ""]),
    "float4": (pyarrow.float32(), [0.1, None], ["0.1", ""]),
    "float8": (pyarrow.float64(), [0.1, float("nan")], ["0.1", "nan"]),
    "text": (pyarrow.string(), ['a"b', ""], ['"a""b"', '""']),
    "bytea": (pyarrow.binary(), [b"\0\xff", None], ['"\\x00ff"', ""]),
    "date": (pyarrow.date32(), [datetime.date(2020, 2, 29), None], ["2020-02-29", ""]),
    "time": (pyarrow.time64("us"), [datetime.time(1, 2, 3, 4), None], ["01:02:03.000004", ""]),
    "timestamp": (pyarrow.timestamp("us"), [datetime.datetime(2020, 1, 1, 2), None], ["2020-01-01 02:00:00.000000", ""]),
    "timestamptz": (pyarrow.timestamp("s", "UTC"), [datetime.datetime(2020, 1, 1, 2, tzinfo=UTC), None], ["2020-01-01 02:00:00.000Z", ""]),
    "float4[]": (pyarrow.list_(pyarrow.float32(), 2), [[0.5, 1.0], None], ['"{0.5,1.0}"', ""]),
    "text[]": (pyarrow.list_(pyarrow.string()), [['a"', "NULL"], None], ['"{""a\\"""",""NULL""}"', ""]),
}


class TestParquet:
    def put(self, root: Path, table: Any) -> str:
        pyarrow.parquet.write_table(table, root / "a.parquet")
        return "a.parquet"

    @pytest.mark.parametrize("type_", ARROW)
    def test_types_and_values(self, tmp_path: Path, type_: str) -> None:
        arrow, values, lines = ARROW[type_]
        source = self.put(tmp_path, pyarrow.table({"a": pyarrow.array(values, arrow)}))
        assert columns(tmp_path, source) == {"a": type_}
        table = opened(tmp_path, source)
        assert b"".join(table.parts()).decode() == "".join(f"{line}\n" for line in lines)
        table.close()

    def test_decimals_and_categories(self, tmp_path: Path) -> None:
        values = {"a": pyarrow.array([decimal.Decimal("1.50")]), "b": pyarrow.array(["x"]).dictionary_encode()}
        assert columns(tmp_path, self.put(tmp_path, pyarrow.table(values))) == {"a": "numeric", "b": "text"}

    def test_a_type_that_has_no_like(self, tmp_path: Path) -> None:
        source = self.put(tmp_path, pyarrow.table({"a": [1], "b": [{"x": 1}]}))
        with pytest.raises(FeatureNotSupported, match=r'column "b" .* of type struct<x: int64>'):
            opened(tmp_path, source)

    def test_rows_come_in_parts(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(parquet, "_MOST_ROWS", 100)
        table = opened(tmp_path, self.put(tmp_path, pyarrow.table({"a": list(range(1000))})))
        parts = list(table.parts())
        assert (len(parts), b"".join(parts).split()[-1]) == (10, b"999")
        table.close()

    def test_what_is_none(self, tmp_path: Path) -> None:
        buffer = io.BytesIO()
        pyarrow.parquet.write_table(pyarrow.table({"a": ["x" * 1000] * 1000}), buffer, compression="NONE", use_dictionary=False)
        data = bytearray(buffer.getvalue())
        data[100:5000] = bytes(4900)
        for content in (b"", b"PAR1", b"a,b\n1,2\n", bytes(data)):
            with pytest.raises(BadFileFormat, match="no parquet file, or damaged"):
                all_of(tmp_path, written(tmp_path, content, "a.parquet"))

    def test_without_pyarrow(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        real = builtins.__import__

        def without(name: str, *others: Any) -> Any:
            if name.startswith("pyarrow"):
                raise ImportError
            return real(name, *others)

        monkeypatch.setattr(builtins, "__import__", without)
        with pytest.raises(FeatureNotSupported) as caught:
            opened(tmp_path, written(tmp_path, b"", "a.parquet"))
        assert "thanoproxy[parquet]" in str(caught.value.hint)
