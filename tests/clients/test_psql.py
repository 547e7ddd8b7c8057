"""psql: the one that comes with the embedded PostgreSQL, and the one of the system where it is another."""

from __future__ import annotations

import csv
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.clients.conftest import run_client
from tests.clients.pictures import COLUMNS, PREDICT, RESULT, Predicted, build, shows_an_epoch
from thanoproxy.embedded.binaries import shipped_psql

Psql = Callable[..., subprocess.CompletedProcess[str]]


def found(which: str) -> Path:
    program = shipped_psql() if which == "shipped" else shutil.which("psql")
    if program is None:
        pytest.skip(f"no psql ({which})")
    return Path(program)


def version_of(psql: Path) -> int:
    line = subprocess.run([psql, "--version"], capture_output=True, text=True, check=True).stdout
    match = re.search(r"\d+", line)
    assert match, line
    return int(match[0])


@pytest.fixture(scope="module", params=["shipped", "system"])
def program(request: pytest.FixtureRequest) -> Path:
    return found(request.param)


@pytest.fixture(scope="module")
def psql(program: Path, url: str) -> Psql:
    """Runs psql on a script (standard input) or on what its arguments say; fields are separated by `|`, without headers."""

    def run(script: str = "", *args: str) -> subprocess.CompletedProcess[str]:
        return run_client([str(program), "--no-psqlrc", "--quiet", "--no-align", "--tuples-only", *args, url], stdin=script)

    return run


@pytest.fixture(scope="module")
def since(program: Path) -> Callable[[int], None]:
    def skip_before(version: int) -> None:
        if version_of(program) < version:
            pytest.skip(f"psql {version_of(program)} has no such command (since {version})")

    return skip_before


def lines(done: subprocess.CompletedProcess[str]) -> list[str]:
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def shown(predicted: Predicted) -> list[str]:
    return ["|".join(map(str, row)) for row in predicted]


class TestOrdinarySQL:
    def test_a_script_with_an_error_and_a_rollback(self, psql: Psql) -> None:
        done = psql("""
            CREATE TEMP TABLE t (a int, b text);
            INSERT INTO t VALUES (1, 'one;'), (2, $$it's$$);
            BEGIN; DELETE FROM t; ROLLBACK;
            SELECT nothing FROM t;
            SELECT * FROM t ORDER BY a;
        """)
        assert lines(done) == ["1|one;", "2|it's"]
        assert 'ERROR:  column "nothing" does not exist' in done.stderr

    def test_types(self, psql: Psql) -> None:
        script = (
            r"""SELECT 1.50::numeric, true, '{1,NULL,3}'::int[], '\xbeef'::bytea, 'infinity'::float8, 'Grüße 😀', NULL, '1d'::interval"""
        )
        assert lines(psql(script)) == [r"1.50|t|{1,NULL,3}|\xbeef|Infinity|Grüße 😀||1 day"]

    def test_a_single_transaction_fails_as_one(self, psql: Psql) -> None:
        script = "CREATE TABLE psql_never (a int);\nSELECT 1/0;\n"
        done = psql(script, "--single-transaction", "--set", "ON_ERROR_STOP=1", "--file", "-")
        assert done.returncode == 3
        assert lines(psql("SELECT to_regclass('psql_never')")) == [""]

    def test_several_statements_in_one_string_are_one_transaction(self, psql: Psql) -> None:
        done = psql("", "--command", "CREATE TABLE psql_never (a int); SELECT 1/0; SELECT 2")
        assert done.returncode == 1
        assert lines(psql("SELECT to_regclass('psql_never')")) == [""]

    @pytest.mark.parametrize("command", [r"\d", r"\d+ pictures", r"\dt+", r"\dn+", r"\df thanosql.*", r"\du", r"\dx", r"\conninfo"])
    def test_catalogue_commands(self, psql: Psql, command: str) -> None:
        done = psql(command)
        assert lines(done)
        assert not done.stderr

    def test_describe_a_table(self, psql: Psql) -> None:
        assert [line.split("|")[:2] for line in lines(psql(r"\d pictures"))] == [["id", "integer"], ["image", "text"], ["label", "text"]]

    def test_copy_to_and_from(self, psql: Psql, tmp_path: Path) -> None:
        file = tmp_path / "pictures.csv"
        done = psql(rf"""
            \copy (SELECT * FROM pictures ORDER BY id) TO '{file}' (FORMAT csv, HEADER)
            CREATE TEMP TABLE again (LIKE pictures);
            \copy again FROM '{file}' (FORMAT csv, HEADER)
            SELECT count(*) FROM again JOIN pictures USING (id, image, label);
        """)
        assert lines(done) == ["24"]
        with file.open(newline="") as written:
            assert next(csv.reader(written)) == ["id", "image", "label"]

    def test_copy_from_a_script(self, psql: Psql) -> None:
        script = "CREATE TEMP TABLE t (a int);\nCOPY t FROM STDIN;\n1\n2\n\\.\nSELECT sum(a) FROM t;\nCOPY t TO STDOUT;\n"
        assert lines(psql(script)) == ["3", "1", "2"]


class TestFiles:
    def test_a_table_of_photos(self, psql: Psql) -> None:
        done = psql(
            "COPY by_psql OPTIONS (if_exists='replace') FROM 'red';\nSELECT count(*), min(image) FROM by_psql;\nDROP TABLE by_psql;"
        )
        assert lines(done) == ["12|red/0.png"]
        assert not done.stderr

    def test_the_command_tag(self, psql: Psql) -> None:
        done = psql("\\set QUIET off\nCOPY pg_temp.t OPTIONS () FROM 'red'; COPY pg_temp.t FROM STDIN;\nx\ty\n\\.\nTABLE nothing;\n")
        assert lines(done) == ["COPY 12", "COPY 1"]

    def test_where_it_went_wrong(self, psql: Psql) -> None:
        done = psql("", "--command", "SELECT 1; COPY t OPTIONS () FROM 'nothing'")
        assert done.returncode == 1
        assert done.stderr.splitlines()[:3] == [
            'ERROR:  directory or file "nothing" is not available',
            "LINE 1: SELECT 1; COPY t OPTIONS () FROM 'nothing'",
            "                                         ^",
        ]


class TestModels:
    def test_build_tells_its_progress(self, psql: Psql) -> None:
        done = psql(build("by_psql") + ";\n\\pset tuples_only off\nDROP MODEL by_psql;\nLIST MODEL;")
        assert lines(done)[0].replace('"', "").startswith("by_psql|1|{blue,red}|24|")
        assert shows_an_epoch(done.stderr.splitlines())
        assert lines(done)[1].startswith("name|class_name|last_updated_utc")

    def test_the_summary_has_these_columns(self, psql: Psql) -> None:
        done = psql("", "--pset", "tuples_only=off", "--command", f"BEGIN; {build('by_psql')}; ROLLBACK")
        assert lines(done)[0].split("|") == RESULT

    def test_predict(self, psql: Psql, predicted: Predicted) -> None:
        header, *rows, count = lines(psql(f"\\pset tuples_only off\n{PREDICT};"))
        assert header.split("|") == COLUMNS
        assert rows == shown(predicted)
        assert count == "(24 rows)"

    def test_an_error_points_at_its_place_and_the_script_goes_on(self, psql: Psql) -> None:
        done = psql("\\set VERBOSITY verbose\nPREDICT USING nobody AS TABLE pictures;\nSELECT 'on';")
        assert lines(done) == ["on"]
        error, line, caret, hint = done.stderr.splitlines()[:4]
        assert error.endswith('ERROR:  42704: model "nobody" does not exist')
        assert line[caret.index("^") :].startswith("nobody")
        assert hint == "HINT:  LIST MODEL shows the models you may use."

    def test_a_failure_rolls_the_transaction_back(self, psql: Psql) -> None:
        done = psql("BEGIN; CREATE TABLE psql_never (a int);\nPREDICT USING nobody AS TABLE pictures;\nSELECT 1;\nCOMMIT;")
        assert "current transaction is aborted" in done.stderr
        assert lines(psql("SELECT to_regclass('psql_never')")) == [""]

    def test_between_other_statements_of_one_string(self, psql: Psql, predicted: Predicted) -> None:
        done = psql("", "--command", f"SELECT 'before'; {PREDICT} LIMIT 3; SELECT 'after'")
        assert lines(done) == ["before", *shown(predicted)[:3], "after"]

    def test_variables(self, psql: Psql, predicted: Predicted) -> None:
        script = "\\set model colours\nPREDICT USING :model AS SELECT image FROM pictures WHERE label = :'label' ORDER BY id LIMIT 2;"
        expected = [f"{image}|{seen}" for _, image, label, seen in predicted if label == "red"][:2]
        assert lines(psql(script, "--set", "label=red")) == expected

    def test_gset_reads_the_added_column(self, psql: Psql, predicted: Predicted) -> None:
        assert lines(psql(f"{PREDICT} LIMIT 1 \\gset\n\\echo :id :predicted")) == [f"0 {predicted[0][3]}"]

    def test_rows_in_chunks(self, psql: Psql, predicted: Predicted) -> None:
        assert lines(psql(f"\\set FETCH_COUNT 5\n{PREDICT};")) == shown(predicted)

    def test_inside_other_sql(self, psql: Psql, predicted: Predicted) -> None:
        script = f"""
            SELECT * FROM ({PREDICT}) AS t WHERE label = 'red' LIMIT 2;
            CREATE TEMP TABLE made AS {PREDICT};
            INSERT INTO made {PREDICT} RETURNING 'x' \\g /dev/null
            SELECT count(*) FROM made;
            WITH p AS ({PREDICT}), q AS (LIST MODEL) SELECT predicted FROM p, q WHERE id = 3 AND name = 'colours';
            SELECT max(predicted) AS most FROM ({PREDICT}) t \\gset
            \\echo :most
        """
        two = [row for row in shown(predicted) if "|red|" in row][:2]
        assert lines(psql(script)) == [*two, "48", predicted[3][3], max(row[3] for row in predicted)]

    def test_copy_out(self, psql: Psql, predicted: Predicted, tmp_path: Path) -> None:
        script = f"COPY ({PREDICT}) TO STDOUT (DELIMITER '|');\n\\copy ({PREDICT}) TO '{tmp_path}/rows' (FORMAT csv, HEADER)"
        assert lines(psql(script)) == shown(predicted)
        with (tmp_path / "rows").open(newline="") as written:
            assert list(csv.reader(written)) == [COLUMNS, *([str(field) for field in row] for row in predicted)]

    def test_a_cursor(self, psql: Psql, predicted: Predicted) -> None:
        script = f"BEGIN; DECLARE c SCROLL CURSOR FOR {PREDICT}; FETCH 2 FROM c; MOVE 3 FROM c; FETCH c; COMMIT;"
        rows = shown(predicted)
        assert lines(psql(script)) == [*rows[:2], rows[5]]

    def test_an_error_inside_other_sql_points_at_its_place(self, psql: Psql) -> None:
        done = psql("SELECT 'before',\n  predicted FROM (PREDICT USING colours AS SELECT nothing FROM pictures) t;")
        error, line, caret = done.stderr.splitlines()[:3]
        assert error.endswith('ERROR:  column "nothing" does not exist')
        assert line.startswith("LINE 2:")
        assert line[caret.index("^") :].startswith("nothing")

    def test_gdesc_inside_other_sql(self, psql: Psql) -> None:
        assert lines(psql(f"SELECT predicted, count(*) FROM ({PREDICT}) t GROUP BY 1 \\gdesc")) == ["predicted|text", "count|bigint"]

    def test_gdesc(self, psql: Psql) -> None:
        assert lines(psql(f"{PREDICT} \\gdesc")) == ["id|integer", "image|text", "label|text", "predicted|text"]

    def test_gdesc_of_build_builds_nothing(self, psql: Psql) -> None:
        assert [line.split("|")[0] for line in lines(psql(build("psql_never") + " \\gdesc"))] == RESULT
        assert lines(psql("SELECT count(*) FROM thanosql.models WHERE name = 'psql_never'")) == ["0"]

    def test_bind(self, psql: Psql, since: Callable[[int], None], predicted: Predicted) -> None:
        since(16)
        script = "PREDICT USING colours AS SELECT id, image, label FROM pictures WHERE id >= $1::int ORDER BY id \\bind 20 \\g"
        assert lines(psql(script)) == shown(predicted)[20:]

    def test_named_statements(self, psql: Psql, since: Callable[[int], None], predicted: Predicted) -> None:
        since(18)
        parse = "PREDICT USING colours AS SELECT id, image, label FROM pictures WHERE id = $1::int \\parse one"
        script = f"{parse}\n\\bind_named one 3 \\g\n\\bind_named one 5 \\g\n\\close_prepared one\n\\bind_named one 3 \\g"
        done = psql(script)
        assert lines(done) == [shown(predicted)[3], shown(predicted)[5]]
        assert 'prepared statement "one" does not exist' in done.stderr

    def test_a_pipeline(self, psql: Psql, since: Callable[[int], None], predicted: Predicted) -> None:
        since(18)
        ask = "PREDICT USING colours AS SELECT id, image, label FROM pictures WHERE id = $1::int \\bind {} \\sendpipeline"
        steps = ["SELECT 'a' \\bind \\sendpipeline", ask.format(1), ask.format(2), "SELECT 'b' \\bind \\sendpipeline"]
        script = "\n".join(["\\startpipeline", *steps, "\\endpipeline"])
        assert lines(psql(script)) == ["a", shown(predicted)[1], shown(predicted)[2], "b"]
