"""COPY … OPTIONS through the proxy: tables made of files, in the client's own transaction and with its own rights."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Timer
from typing import Any

import psycopg
import pyarrow
import pyarrow.parquet
import pytest
from psycopg import errors

from tests.databases import Database
from tests.files.test_guess import CASES
from tests.rawwire import RawClient, bind, parse
from tests.serving import Proxy, running_proxy
from tests.session.asking import Connection, fetched, text
from thanoproxy.wire.messages import SYNC, copy_data, copy_done, describe, execute, query

RED = [(f"red/{i}.png", None) for i in (0, 1, 10, 11, *range(2, 10))]


@pytest.fixture(scope="module")
def files(proxy: Proxy) -> Path:
    return proxy.server.settings.files.roots[0]


@pytest.fixture
def block(connection: Connection) -> Iterator[Connection]:
    """In a transaction block that is rolled back in the end."""
    connection.execute("BEGIN")
    yield connection
    connection.execute("ROLLBACK")


def run(connection: Connection, statement: str, **more: Any) -> str | None:
    """The command tag."""
    return connection.execute(text(statement), **more).statusmessage


def notices(connection: Connection) -> list[str]:
    heard: list[str] = []
    connection.add_notice_handler(lambda notice: heard.append(f"{notice.severity}: {notice.message_primary}"))
    return heard


def refused(connection: Connection, statement: str, **more: Any) -> psycopg.errors.Diagnostic:
    with pytest.raises(psycopg.Error) as caught:
        run(connection, statement, **more)
    return caught.value.diag


def types_of(connection: Connection, table: str) -> dict[str, str]:
    asked = (
        "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 ORDER BY attnum"
    )
    return dict(fetched(connection, asked, table))


class TestImages:
    def test_a_row_for_each_image(self, block: Connection) -> None:
        assert run(block, "COPY shades OPTIONS (if_exists='replace') FROM '.'") == "COPY 24"
        assert types_of(block, "shades") == {"image": "text", "label": "text"}
        assert fetched(block, "SELECT label, count(*) FROM shades GROUP BY 1 ORDER BY 1") == [("blue", 12), ("red", 12)]
        assert len(fetched(block, "PREDICT USING colours AS SELECT * FROM shades")) == 24
        tag = run(block, "BUILD MODEL m USING MobileNet_V2 OPTIONS (pretrained=false, input_size=32, epochs=1) AS TABLE shades")
        assert tag == "SELECT 1"

    def test_names_of_columns(self, block: Connection) -> None:
        run(block, "COPY \"Fünf 猫\" OPTIONS (image_col='Bild', label_col='ラベル') FROM 'red'")
        assert types_of(block, '"Fünf 猫"') == {"Bild": "text", "ラベル": "text"}
        assert fetched(block, 'SELECT * FROM "Fünf 猫"') == RED

    def test_one_image(self, block: Connection) -> None:
        assert run(block, "COPY one OPTIONS () FROM 'red/7.png'") == "COPY 1"
        assert fetched(block, "TABLE one") == [("red/7.png", None)]

    def test_what_is_left_out_is_told(self, block: Connection, image_root: Path) -> None:
        (image_root / "red" / "notes.txt").write_text("x")
        heard = notices(block)
        try:
            run(block, "COPY told OPTIONS () FROM 'red'")
            run(block, "SELECT 1; COPY told OPTIONS (if_exists='append') FROM 'red'")
        finally:
            (image_root / "red" / "notes.txt").unlink()
        assert heard == ["NOTICE: left out: 1 file without the name of an image"] * 2

    def test_real_photos(self, block: Connection, test_data: Path) -> None:
        assert run(block, "COPY cats_and_dogs OPTIONS () FROM 'training_set'") == "COPY 400"
        assert fetched(block, "SELECT label, count(*) FROM cats_and_dogs GROUP BY 1 ORDER BY 1") == [("cats", 200), ("dogs", 200)]
        ours, listed = "SELECT image FROM cats_and_dogs ORDER BY 1", (test_data / "data" / "cat_and_dog").glob("training_set/*/*.jpg")
        found = sorted(row[0] for row in fetched(block, ours))
        assert found == sorted(str(path.relative_to(test_data / "data" / "cat_and_dog")) for path in listed)

    @pytest.mark.parametrize("name", ["nothing", "../images", "/etc", "red/.."])
    def test_what_is_not_below_the_roots(self, block: Connection, name: str) -> None:
        if name == "red/..":
            assert run(block, "COPY t OPTIONS () FROM 'red/..'") == "COPY 24"
            return
        error = refused(block, f"COPY t OPTIONS () FROM '{name}'")
        assert (error.sqlstate, error.message_primary) == ("58P01", f'directory or file "{name}" is not available')
        assert error.statement_position == "24"

    def test_a_folder_without_images_changes_nothing(self, connection: Connection, image_root: Path) -> None:
        (image_root / "empty").mkdir()
        try:
            run(connection, "CREATE TABLE full_of AS SELECT 1 AS a")
            error = refused(connection, "COPY full_of OPTIONS (if_exists='replace') FROM 'empty'")
            assert (error.sqlstate, error.statement_position) == ("P0002", "49")
            assert fetched(connection, "TABLE full_of") == [(1,)]
        finally:
            (image_root / "empty").rmdir()
            run(connection, "DROP TABLE full_of")

    def test_a_failure_on_the_way(self, connection: Connection, image_root: Path) -> None:
        for i in range(3000):
            (image_root / f"way{i % 2}").mkdir(exist_ok=True)
            (image_root / f"way{i % 2}" / f"{i:0200}.png").touch()
        strange = os.fsencode(image_root) + b"/way1/\xff.png"
        with open(strange, "wb"):
            pass
        try:
            for statement in ("COPY t OPTIONS () FROM '.'", "SELECT 1; COPY t OPTIONS () FROM '.'"):
                error = refused(connection, statement)
                assert (error.sqlstate, error.statement_position) == ("22021", str(len(statement) - 2))
                assert fetched(connection, "SELECT to_regclass('t')") == [(None,)]
        finally:
            os.unlink(strange)
            for i in range(2):
                for path in (image_root / f"way{i}").iterdir():
                    path.unlink()
                (image_root / f"way{i}").rmdir()


class TestTables:
    def test_a_name_that_is_taken(self, block: Connection) -> None:
        run(block, "CREATE TABLE taken (a int)")
        error = refused(block, "COPY taken OPTIONS () FROM 'red'")
        assert (error.sqlstate, error.message_primary, error.statement_position) == ("42P07", 'relation "taken" already exists', "6")
        assert "if_exists='append'" in (error.message_hint or "")
        assert error.context is None

    def test_replace(self, block: Connection) -> None:
        run(block, "CREATE SCHEMA other; CREATE TABLE other.t (a int); SET LOCAL search_path = public, other")
        run(block, "COPY t OPTIONS (if_exists='replace') FROM 'red'")
        assert fetched(block, "SELECT 't'::regclass::text, to_regclass('public.t')") == [("t", None)]
        assert fetched(block, "TABLE other.t") == RED

    def test_replace_what_is_no_table_or_is_needed(self, block: Connection) -> None:
        run(block, "CREATE TABLE base (a int); CREATE VIEW on_it AS TABLE base; SAVEPOINT s")
        error = refused(block, "COPY base OPTIONS (if_exists='replace') FROM 'red'")
        assert (error.sqlstate, error.message_detail, error.statement_position) == ("2BP01", "view on_it depends on table base", "6")
        run(block, "ROLLBACK TO s")
        assert refused(block, "COPY on_it OPTIONS (if_exists='replace') FROM 'red'").sqlstate == "42809"

    def test_append(self, block: Connection) -> None:
        run(block, "CREATE TABLE more (id int GENERATED ALWAYS AS IDENTITY, label varchar(9), image text, at date DEFAULT '2020-01-01')")
        assert run(block, "COPY more OPTIONS (if_exists='append') FROM 'red/1.png'") == "COPY 1"
        assert run(block, "COPY more OPTIONS (if_exists='append') FROM 'blue/1.png'") == "COPY 1"
        assert fetched(block, "SELECT id, label, image, at::text FROM more") == [
            (1, None, "red/1.png", "2020-01-01"),
            (2, None, "blue/1.png", "2020-01-01"),
        ]

    def test_append_makes_what_is_missing(self, block: Connection) -> None:
        assert run(block, "COPY missing OPTIONS (if_exists='append') FROM 'red'") == "COPY 12"
        assert run(block, "COPY missing OPTIONS (if_exists='append') FROM 'blue'") == "COPY 12"
        assert fetched(block, "SELECT count(*) FROM missing") == [(24,)]

    def test_append_to_other_columns(self, block: Connection) -> None:
        run(block, "CREATE TABLE others (image text); SAVEPOINT s")
        error = refused(block, "COPY others OPTIONS (if_exists='append') FROM 'red'")
        assert (error.sqlstate, error.message_primary) == ("42703", 'column "label" of relation "others" does not exist')

    def test_constraints_and_triggers_are_the_servers(self, block: Connection) -> None:
        run(block, "CREATE TABLE once (image text PRIMARY KEY, label text); SAVEPOINT s")
        run(block, "COPY once OPTIONS (if_exists='append') FROM 'red'")
        error = refused(block, "COPY once OPTIONS (if_exists='append') FROM '.'")
        assert (error.sqlstate, error.context) == ("23505", "COPY once, line 13")

    def test_temporary_tables(self, block: Connection) -> None:
        run(block, "COPY pg_temp.passing OPTIONS () FROM 'red'")
        run(block, "COPY passing OPTIONS (if_exists='replace') FROM 'red/1.png'")
        assert fetched(block, "SELECT relpersistence::text FROM pg_class WHERE oid = 'passing'::regclass") == [("t",)]
        assert fetched(block, "TABLE passing") == [("red/1.png", None)]

    def test_a_temporary_table_in_front_of_another(self, block: Connection) -> None:
        run(block, "CREATE TABLE twice (image text, label text); CREATE TEMP TABLE twice (image text, label text)")
        run(block, "COPY twice OPTIONS (if_exists='append') FROM 'red/1.png'")
        assert fetched(block, "SELECT count(*) FROM pg_temp.twice UNION ALL SELECT count(*) FROM public.twice") == [(1,), (0,)]

    def test_a_schema_that_is_missing(self, block: Connection) -> None:
        error = refused(block, "COPY nowhere.t OPTIONS () FROM 'red'")
        assert (error.sqlstate, error.statement_position) == ("3F000", "6")

    def test_rights_are_the_roles_own(self, url: str, proxy: Proxy, module_database: Database, connection: Connection) -> None:
        role, direct = module_database.add_role()
        run(connection, "CREATE TABLE owned (image text, label text)")
        with psycopg.connect(proxy.url(module_database, role, direct.split(":")[2].split("@")[0]), autocommit=True) as other:
            assert refused(other, "COPY fresh OPTIONS () FROM 'red'").sqlstate == "42501"
            assert refused(other, "COPY owned OPTIONS (if_exists='append') FROM 'red'").sqlstate == "42501"
            run(connection, f"GRANT INSERT ON owned TO {role}")
            assert run(other, "COPY owned OPTIONS (if_exists='append') FROM 'red'") == "COPY 12"
            assert refused(other, "COPY owned OPTIONS (if_exists='replace') FROM 'red'").sqlstate == "42501"
            assert run(other, "COPY pg_temp.fresh OPTIONS () FROM 'red'") == "COPY 12"
        run(connection, "DROP TABLE owned")


class TestTransactions:
    def test_they_take_it_back(self, connection: Connection) -> None:
        run(connection, "BEGIN")
        run(connection, "COPY gone OPTIONS () FROM 'red'")
        run(connection, "SAVEPOINT s")
        run(connection, "COPY gone OPTIONS (if_exists='append') FROM 'red'")
        assert refused(connection, "COPY gone OPTIONS () FROM 'red'").sqlstate == "42P07"
        assert refused(connection, "COPY gone OPTIONS () FROM 'red'").sqlstate == "25P02"
        run(connection, "ROLLBACK TO s")
        assert fetched(connection, "SELECT count(*) FROM gone") == [(12,)]
        run(connection, "ROLLBACK")
        assert fetched(connection, "SELECT to_regclass('gone')") == [(None,)]

    @pytest.mark.parametrize("before", ["", "SELECT 1; "])
    def test_read_only(self, block: Connection, before: str) -> None:
        run(block, "CREATE TEMP TABLE passing (image text, label text); SET TRANSACTION READ ONLY; SAVEPOINT s")
        assert run(block, before + "COPY passing OPTIONS (if_exists='append') FROM 'red'") == ("SELECT 1" if before else "COPY 12")
        error = refused(block, before + "COPY t OPTIONS () FROM 'red'")
        assert (error.sqlstate, error.message_primary) == ("25006", "cannot execute CREATE TABLE in a read-only transaction")
        run(block, "ROLLBACK TO s")
        assert refused(block, before + "COPY t OPTIONS () FROM 'nothing'").sqlstate == "58P01"

    def test_a_string_of_statements(self, connection: Connection, url: str) -> None:
        with RawClient(url) as raw:
            sent = "SELECT 1; COPY str OPTIONS () FROM 'red'; COPY str OPTIONS (if_exists='append') FROM 'blue'; SELECT count(*) FROM str"
            replies = raw.talk(query(sent.encode()))
            assert [reply for reply in replies if reply[0] != "T"] == [
                "D[1]",
                "C[SELECT 1]",
                "C[COPY 12]",
                "C[COPY 12]",
                "D[24]",
                "C[SELECT 1]",
                "Z[I]",
            ]
            replies = raw.talk(query(b"INSERT INTO str VALUES ('x'); COPY str OPTIONS () FROM 'red'; SELECT 2"))
            assert replies == ["C[INSERT 0 1]", 'E[42P07 relation "str" already exists @36]', "Z[I]"]
            replies = raw.talk(query(b"INSERT INTO str VALUES ('x'); COPY str OPTIONS (if_exists='append') FROM 'nothing'; SELECT 2"))
            assert replies == ["C[INSERT 0 1]", 'E[58P01 directory or file "nothing" is not available @74]', "Z[I]"]
            replies = raw.talk(
                query(b"DROP TABLE str; COPY str OPTIONS () FROM 'red'; COPY str FROM STDIN; SELECT 3"), copy_data(b"a\tb\n"), copy_done()
            )
            assert [reply for reply in replies if reply[0] != "T"] == [
                "C[DROP TABLE]",
                "C[COPY 12]",
                "G",
                "C[COPY 1]",
                "D[3]",
                "C[SELECT 1]",
                "Z[I]",
            ]
            replies = raw.talk(query(b"BEGIN; SELECT 1/0; COPY str OPTIONS (if_exists='append') FROM 'red'"))
            assert replies[-1] == "Z[E]"
            replies = raw.talk(query(b"SELECT 1; COPY str OPTIONS (if_exists='append') FROM 'nothing'"))
            assert replies[0].startswith("E[25P02")
            replies = raw.talk(query(b"ROLLBACK; COPY str OPTIONS (if_exists='append') FROM 'red'; COMMIT"))
            assert replies == ["C[ROLLBACK]", "C[COPY 12]", "N[25P01 there is no transaction in progress]", "C[COMMIT]", "Z[I]"]
        assert fetched(connection, "SELECT count(*) FROM str") == [(25,)]
        run(connection, "DROP TABLE str")

    def test_the_extended_protocol(self, url: str) -> None:
        copy = "COPY pg_temp.ext OPTIONS (if_exists='append') FROM 'red'"
        with RawClient(url) as raw:
            once = raw.talk(parse(copy), describe(b"S", b""), bind(formats=(1,)), describe(b"P", b""), execute(b"", 1), SYNC)
            assert once == ["1", "t[]", "n", "2", "n", "C[COPY 12]", "Z[I]"]
            named = raw.talk(parse(copy, "s"), SYNC) + raw.talk(bind(name="s"), execute(b""), execute(b""), SYNC)
            assert named == ["1", "Z[I]", "2", "C[COPY 12]", 'E[34000 portal "" does not exist]', "Z[I]"]
            # The Execute that fails took the first one with it: they were one transaction.
            assert raw.talk(query(b"SELECT count(*) FROM pg_temp.ext"))[1] == "D[12]"
            piped = raw.talk(bind(name="s"), execute(b""), parse("SELECT 1"), bind(), execute(b""), SYNC)
            assert piped == ["2", "C[COPY 12]", "1", "2", "D[1]", "C[SELECT 1]", "Z[I]"]
            failed = raw.talk(parse("COPY pg_temp.ext OPTIONS () FROM 'red'"), bind(), execute(b""), parse("SELECT 1"), bind(), SYNC)
            assert failed == ["1", "2", 'E[42P07 relation "ext" already exists @6]', "Z[I]"]
            assert raw.talk(parse("COPY t OPTIONS () FROM 'nothing'"), SYNC) == ["1", "Z[I]"]

    def test_prepared_by_a_driver(self, block: Connection) -> None:
        for _ in range(3):
            assert run(block, "COPY again OPTIONS (if_exists='append') FROM 'red'", prepare=True) == "COPY 12"
        assert fetched(block, "SELECT count(*) FROM again") == [(36,)]


SLOW = """
CREATE TABLE slow (image text, label text);
CREATE FUNCTION nap() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.2); RETURN NEW; END';
CREATE TRIGGER naps BEFORE INSERT ON slow FOR EACH ROW EXECUTE FUNCTION nap();
"""
INTO_SLOW = "COPY slow OPTIONS (if_exists='append') FROM '.'"


@pytest.fixture(scope="module")
def slow(module_database: Database) -> Iterator[None]:
    """A table that takes five rows a second."""
    module_database.execute(SLOW)
    yield
    module_database.execute("DROP TABLE slow; DROP FUNCTION nap")


@pytest.fixture(scope="module")
def large(files: Path) -> Iterator[None]:
    """A file that takes several seconds to look through."""
    (files / "large.csv").write_text("a,b,c,d\n" + "1,2.5,2020-01-01,2020-01-01 12:30\n" * 1_000_000)
    yield
    (files / "large.csv").unlink()


class TestStopping:
    def stopped(self, connection: Connection, statement: str, message: str) -> None:
        started = time.monotonic()
        with pytest.raises(errors.QueryCanceled, match=message):
            run(connection, statement)
        assert time.monotonic() - started < 2.5
        assert fetched(connection, "SELECT count(*) FROM slow") == [(0,)]
        assert fetched(connection, "SELECT to_regclass('from_large')") == [(None,)]

    @pytest.mark.usefixtures("slow", "large")
    @pytest.mark.parametrize("before", ["", "SELECT 1; "])
    @pytest.mark.parametrize("statement", [INTO_SLOW, "COPY from_large OPTIONS () FROM 'large.csv'"])
    def test_by_the_user_and_by_the_clock(self, connection: Connection, statement: str, before: str) -> None:
        timer = Timer(0.5, connection.cancel_safe)
        timer.start()
        self.stopped(connection, before + statement, "user request")
        timer.join()
        run(connection, "SET statement_timeout = '400ms'")
        self.stopped(connection, before + statement, "statement timeout")

    @pytest.mark.usefixtures("slow")
    @pytest.mark.parametrize("before", ["", "SELECT 1; "])
    def test_behind_another_sessions_lock(self, connection: Connection, module_database: Database, before: str) -> None:
        with psycopg.connect(module_database.url) as other:
            other.execute("LOCK TABLE slow IN SHARE MODE")
            timer = Timer(0.5, connection.cancel_safe)
            timer.start()
            self.stopped(connection, before + INTO_SLOW, "user request")
            timer.join()

    @pytest.mark.usefixtures("slow", "large")
    @pytest.mark.parametrize("statement", [INTO_SLOW, f"SELECT 1; {INTO_SLOW}", "COPY from_large OPTIONS () FROM 'large.csv'"])
    def test_a_client_that_goes_away(self, url: str, module_database: Database, statement: str) -> None:
        with RawClient(url) as raw:
            raw.send(query(statement.encode()))
            time.sleep(0.5)
            raw.socket.shutdown(2)
            pid = raw.pid
        with psycopg.connect(module_database.url, autocommit=True) as observer:
            end = time.monotonic() + 5
            while fetched(observer, "SELECT FROM pg_stat_activity WHERE pid = %s", pid):
                assert time.monotonic() < end
                time.sleep(0.05)
            assert fetched(observer, "SELECT count(*) FROM slow") == [(0,)]


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("before", ["", "SELECT 1; "])
def test_a_reader_that_is_killed(connection: Connection, before: str) -> None:
    def kill() -> None:
        for children in Path("/proc/self/task").glob("*/children"):
            for pid in children.read_text().split():
                if b"reading_process" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    os.kill(int(pid), signal.SIGKILL)

    timer = Timer(0.5, kill)
    timer.start()
    error = refused(connection, before + "COPY from_large OPTIONS () FROM 'large.csv'")
    timer.join()
    assert (error.sqlstate, error.message_detail) == ("58000", "It was ended by signal 9.")
    assert fetched(connection, "SELECT to_regclass('from_large')") == [(None,)]


class TestCsv:
    def test_types_are_those_that_postgresql_reads(self, block: Connection, files: Path) -> None:
        rows = max(len(values) for _, values in CASES)
        columns = [[*values, *[""] * (rows - len(values))] for _, values in CASES]
        lines = [",".join(f"c{i}" for i in range(len(CASES)))]
        lines += [",".join('"' + column[row] + '"' for column in columns) for row in range(rows)]
        (files / "guesses.csv").write_text("\n".join(lines))
        assert run(block, "COPY guesses OPTIONS () FROM 'guesses.csv'") == f"COPY {rows}"
        names = {"bool": "boolean", "int8": "bigint", "float8": "double precision"}
        names |= {"timestamp": "timestamp without time zone", "timestamptz": "timestamp with time zone"}
        assert list(types_of(block, "guesses").values()) == [names.get(type_, type_) for type_, _ in CASES]

    def test_null_and_nothing(self, block: Connection, files: Path) -> None:
        (files / "null.csv").write_text('a,b\n1,x\n,\n"",""\n')
        run(block, "COPY nulls OPTIONS () FROM 'null.csv'")
        assert fetched(block, "TABLE nulls") == [(1, "x"), (None, None), (None, "")]

    def test_into_a_table_with_types_of_its_own(self, block: Connection, files: Path) -> None:
        (files / "own.csv").write_text("n,when\n007,01.02.2020\n8,\n")
        run(block, "SET LOCAL datestyle = german; CREATE TABLE own (\"when\" date, x text DEFAULT 'd', n int); SAVEPOINT s")
        assert run(block, "COPY own OPTIONS (if_exists='append') FROM 'own.csv'") == "COPY 2"
        assert fetched(block, "SELECT n, \"when\" = '2020-02-01', x FROM own") == [(7, True, "d"), (8, None, "d")]
        (files / "own.csv").write_text("n\n99999999999\n")
        error = refused(block, "COPY own OPTIONS (if_exists='append') FROM 'own.csv'")
        assert (error.sqlstate, error.context) == ("22003", 'COPY own, line 2, column n: "99999999999"')

    @pytest.mark.parametrize(
        ("data", "sqlstate", "where"),
        [
            (b"a,b\n1,2\n3\n", "22P04", 'COPY bad, line 3: "3"'),
            (b"a,b\n1,2,3\n", "22P04", 'COPY bad, line 2: "1,2,3"'),
            (b'a,b\n1,"2\n', "22P04", None),
            (b"a\nx\n\xff\n", "22021", "COPY bad, line 3"),
            (b"a\nx\0\n", "22021", "COPY bad, line 2"),
            (b"", "22P04", None),
            (b"a,a\n", "42701", None),
            (b"a\n1\n\\.\n2\n", "22P04", None),
            (b"ctid\n1\n", "42701", None),
        ],
    )
    @pytest.mark.parametrize("before", ["", "SELECT 1; "])
    def test_mistakes(self, block: Connection, files: Path, data: bytes, sqlstate: str, where: str | None, before: str) -> None:
        (files / "bad.csv").write_bytes(data)
        error = refused(block, before + "COPY bad OPTIONS () FROM 'bad.csv'")
        assert error.sqlstate == sqlstate
        assert where is None or where in (error.context or "")

    @pytest.mark.parametrize("encoding", ["LATIN1", "SJIS", "SQL_ASCII"])
    def test_in_every_client_encoding(self, block: Connection, files: Path, encoding: str) -> None:
        (files / "unicode.csv").write_text("größe,猫\nß,犬\n", encoding="utf-8")
        run(block, f"SET LOCAL client_encoding = '{encoding}'")
        run(block, "COPY uni OPTIONS () FROM 'unicode.csv'")
        run(block, "SET LOCAL client_encoding = 'UTF8'")
        assert fetched(block, 'SELECT "größe", "猫" FROM uni') == [("ß", "犬")]

    def test_many_rows(self, block: Connection, files: Path) -> None:
        (files / "many.csv").write_text("a,b\n" + "".join(f"{i},{'x' * 200}\n" for i in range(20_000)))
        assert run(block, "COPY many OPTIONS () FROM 'many.csv'") == "COPY 20000"
        assert fetched(block, "SELECT sum(a) FROM many") == [(199990000,)]
        assert refused(block, "COPY many OPTIONS () FROM 'many.csv'").sqlstate == "42P07"  # with most of it still to be read

    def test_not_below_the_image_roots(self, block: Connection, image_root: Path) -> None:
        (image_root / "secret.csv").write_text("a\n1\n")
        error = refused(block, "COPY t OPTIONS () FROM 'secret.csv'")
        (image_root / "secret.csv").unlink()
        assert error.sqlstate == "58P01"
        assert "files.roots" in (error.message_hint or "")


class TestParquet:
    def test_types_and_nulls(self, block: Connection, files: Path) -> None:
        values = {
            "id": pyarrow.array([1, 2], pyarrow.int32()),
            "Name": ['a,\n"b"', None],
            "bytes": [b"\0\xff", b""],
            "tags": [["a b", "c"], []],
            "vector": pyarrow.array([[0.5, 1.5], None], pyarrow.list_(pyarrow.float32())),
        }
        pyarrow.parquet.write_table(pyarrow.table(values), files / "a.parquet")
        assert run(block, "COPY arrow OPTIONS () FROM 'a.parquet'") == "COPY 2"
        assert types_of(block, "arrow") == {"id": "integer", "Name": "text", "bytes": "bytea", "tags": "text[]", "vector": "real[]"}
        assert fetched(block, "TABLE arrow") == [
            (1, 'a,\n"b"', b"\0\xff", ["a b", "c"], [0.5, 1.5]),
            (2, None, b"", [], None),
        ]

    def test_what_is_none(self, block: Connection, files: Path) -> None:
        (files / "none.parquet").write_text("a,b")
        assert refused(block, "COPY t OPTIONS () FROM 'none.parquet'").sqlstate == "22P04"


def test_postgresqls_own_copy_is_untouched(block: Connection) -> None:
    run(block, "CREATE TABLE options (options text, t text)")
    for statement in (
        "COPY options FROM STDIN",
        "COPY options (options, t) FROM STDIN (FORMAT csv, DELIMITER E'\\t')",
        'COPY "options" FROM STDIN',
    ):
        with block.cursor().copy(text(statement)) as copy:
            copy.write("a\tb\n")
    with block.cursor().copy("COPY options(t, options) TO STDOUT (FORMAT csv)") as out:
        assert b"".join(out) == b"b,a\n" * 3
    with block.cursor().copy("COPY (PREDICT USING colours AS SELECT 'red/1.png' AS image) TO STDOUT") as out:
        assert b"".join(out).split(b"\t")[0] == b"red/1.png"


def test_without_folders_the_hints_name_the_settings(database: Database, image_root: Path, tmp_path: Path) -> None:
    with running_proxy(database.url, [image_root], tmp_path) as bare, psycopg.connect(bare.url(database), autocommit=True) as connection:
        error = refused(connection, "COPY t OPTIONS () FROM 'x.csv'")
        assert (error.sqlstate, error.statement_position) == ("0A000", "24")
        assert "files.roots" in (error.message_hint or "")


def test_a_database_without_our_schema(empty_database: Database, proxy: Proxy) -> None:
    with psycopg.connect(proxy.url(empty_database), autocommit=True) as connection:
        assert run(connection, "COPY t OPTIONS () FROM 'red'") == "COPY 12"
        assert run(connection, "SELECT 1; COPY t OPTIONS (if_exists='replace') FROM 'red'") == "SELECT 1"
