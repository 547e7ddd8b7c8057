"""What BI tools make of a query that their user has typed, `{q}` here, each with the place where that is known from.

Superset's were recorded between Superset 6.1.0 and the proxy, word for word.  The others were not driven: they come from the tools'
public sources, and from logs in bug reports of other servers that speak PostgreSQL's protocol.
"""

from __future__ import annotations

__all__ = [
    "DBEAVER",
    "GRAFANA",
    "METABASE",
    "POWER_BI",
    "SUPERSET",
    "SUPERSET_PREDICT",
    "SUPERSET_PROBES",
    "TABLEAU",
    "TABLEAU_INTO",
    "Wrappings",
]

Wrappings = dict[str, tuple[str, ...]]
"""What is done: the statements that are sent for it, in order."""

SUPERSET_PREDICT = "PREDICT USING colours AS\n  SELECT\n    id,\n    image,\n    label\n  FROM pictures\n  ORDER BY\n    id"
"""Superset never sends what was typed: it sends what sqlglot writes, in its layout."""

SUPERSET_PROBES = (
    "SELECT t.oid, typarray\nFROM pg_type t JOIN pg_namespace ns\n    ON typnamespace = ns.oid\nWHERE typname = 'hstore';\n",
    "select pg_catalog.version()",
    "select current_schema()",
    "show transaction isolation level",
    "show standard_conforming_strings",
    'set search_path = "public"',
    "SELECT pg_backend_pid()",  # by which its Stop button terminates the backend
)
"""Before each query, on a new connection."""

_VIRTUAL = "FROM (\n  {q}\n) AS virtual_table"

SUPERSET: Wrappings = {
    "SQL Lab": ("SELECT\n  predicted,\n  COUNT(*)\nFROM (\n  {q}\n) AS t\nGROUP BY\n  1\nLIMIT 1001",),
    "SQL Lab, CTE": ("WITH p AS (\n  {q}\n)\nSELECT\n  predicted,\n  COUNT(*)\nFROM p\nGROUP BY\n  1\nLIMIT 1001",),
    "SQL Lab, CREATE TABLE AS": ("CREATE TABLE superset_made AS\n{q}", "SELECT * FROM superset_made", "DROP TABLE superset_made"),
    "columns of a dataset": ("SELECT\n  label,\n  predicted\nFROM (\n  {q}\n) AS t\nWHERE\n  predicted <> label\nLIMIT 1",),
    "values of a filter": ("SELECT DISTINCT predicted AS column_values \nFROM ({q}\n) AS virtual_table \n LIMIT 10000",),
    "table, raw": (f"SELECT\n  image AS image,\n  label AS label,\n  predicted AS predicted\n{_VIRTUAL}\nLIMIT 1000",),
    "table, custom filter": (
        f"SELECT\n  image AS image,\n  label AS label,\n  predicted AS predicted\n{_VIRTUAL}\nWHERE\n  (\n    (\n      "
        "predicted <> label\n    )\n  )\nORDER BY\n  image ASC\nLIMIT 10000",
    ),
    "table, aggregated and filtered": (
        f"SELECT\n  label AS label,\n  predicted AS predicted,\n  COUNT(*) AS count\n{_VIRTUAL}\nWHERE\n  predicted IN ('red')\n"
        "GROUP BY\n  label,\n  predicted\nORDER BY\n  count DESC\nLIMIT 10000",
    ),
    "bar chart": (
        f"SELECT\n  label AS label,\n  predicted AS predicted,\n  COUNT(*) AS count\n{_VIRTUAL}\nGROUP BY\n  label,\n  predicted\n"
        "ORDER BY\n  count DESC\nLIMIT 10000",
    ),
    "series limit": (
        f"SELECT\n  label AS label,\n  predicted AS predicted,\n  COUNT(*) AS count\n{_VIRTUAL}\nJOIN (\n  SELECT\n"
        f"    predicted AS predicted__,\n    COUNT(*) AS mme_inner__\n  {_VIRTUAL}\n  GROUP BY\n    predicted\n  ORDER BY\n"
        "    mme_inner__ DESC\n  LIMIT 1\n) AS series_limit\n  ON predicted = predicted__\nGROUP BY\n  label,\n  predicted\nLIMIT 100",
    ),
    "series limit, the others together": (
        "SELECT\n  label AS label,\n  CASE\n    WHEN (\n      NOT series_limit.predicted__ IS NULL\n    )\n    THEN predicted\n"
        f"    ELSE 'Others'\n  END AS predicted,\n  COUNT(*) AS count\n{_VIRTUAL}\nLEFT OUTER JOIN (\n  SELECT\n"
        f"    predicted AS predicted__,\n    COUNT(*) AS mme_inner__\n  {_VIRTUAL}\n  GROUP BY\n    predicted\n  ORDER BY\n"
        "    COUNT(*) DESC\n  LIMIT 1\n) AS series_limit\n  ON predicted = predicted__\nGROUP BY\n  label,\n  CASE\n    WHEN (\n"
        "      NOT series_limit.predicted__ IS NULL\n    )\n    THEN predicted\n    ELSE 'Others'\n  END",
    ),
    "having": (
        f"SELECT\n  predicted AS predicted,\n  COUNT(*) AS count\n{_VIRTUAL}\nGROUP BY\n  predicted\nHAVING\n  (\n    COUNT(*) > 3\n"
        "  )\nORDER BY\n  count DESC\nLIMIT 100",
    ),
    "search": (
        f"SELECT\n  image AS image,\n  predicted AS predicted\n{_VIRTUAL}\nWHERE\n  image ILIKE '%1.png%'\nGROUP BY\n  image,\n"
        "  predicted\nLIMIT 100",
    ),
    "metric of custom SQL": (f"SELECT\n  AVG(CAST((\n    predicted = label\n  ) AS INT)) AS accuracy\n{_VIRTUAL}\nLIMIT 100",),
    "number of rows": (
        "SELECT\n  COUNT(*) AS rowcount\nFROM (\n  SELECT\n    image AS image,\n    predicted AS predicted\n  "
        f"{_VIRTUAL}\n  GROUP BY\n    image,\n    predicted\n  LIMIT 100\n) AS rowcount_qry",
    ),
}

_REMARK = "-- Metabase:: userID: 1 queryType: {kind} queryHash: 22df1740fa126b46d6d53bc2fd61d90c042ba4c4a1802d544dfd4449e29c2eae\n"
_NATIVE, _QUESTION = _REMARK.replace("{kind}", "native"), _REMARK.replace("{kind}", "MBQL")

METABASE: Wrappings = {
    # The comment and the row limit: remarks in metabase/driver/sql_jdbc/execute.clj and query_processor/util.clj, LIMIT 1048575 in
    # query_processor's tests.  A question over a native one has that as "source" (driver/sql/query_processor.clj).
    "native query": (_NATIVE + "{q}",),
    "native query, wrapped": (_NATIVE + "SELECT predicted, count(*) FROM ({q}) t GROUP BY 1",),
    "question over it": (
        _QUESTION + 'SELECT "source"."id" AS "id", "source"."image" AS "image", "source"."label" AS "label", '
        '"source"."predicted" AS "predicted" FROM ({q}) AS "source" LIMIT 1048575',
    ),
    "summary": (
        _QUESTION + 'SELECT "source"."predicted" AS "predicted", COUNT(*) AS "count" FROM ({q}) AS "source" '
        'WHERE "source"."id" > 2 GROUP BY "source"."predicted" ORDER BY "source"."predicted" ASC',
    ),
    "question over a question": (
        _QUESTION + 'SELECT "source"."predicted" AS "predicted", "source"."count" AS "count" FROM (SELECT "source"."predicted" AS '
        '"predicted", COUNT(*) AS "count" FROM ({q}) AS "source" GROUP BY "source"."predicted") AS "source" '
        'WHERE "source"."count" > 1 LIMIT 2000',
    ),
}

_CUSTOM = 'FROM (\n  {q}\n) "Custom SQL Query"'

_FILTERED = (
    f'SELECT COUNT(1) AS "cnt:ok"\n{_CUSTOM}\n  INNER JOIN "#Tableau_2_3_Filter" "t0" ON ("Custom SQL Query"."predicted" = '
    '"t0"."predicted")\nHAVING (COUNT(1) > 0)'
)

TABLEAU: Wrappings = {
    # Through psqlODBC with UseDeclareFetch=1, which makes `BEGIN;declare "SQL_CUR…" cursor with hold for …;fetch 2048 in "SQL_CUR…"` of
    # each (github.com/ildus/clickhouse_fdw/issues/42, crate/crate/issues/10212); newer versions use pgjdbc (risingwave/issues/10459).
    "what the server can do": (  # crate/crate/issues/10213
        'CREATE LOCAL TEMPORARY TABLE "#Tableau_1_2_Connect_CheckCreateTempTableCap" (\n\t"COL" INTEGER\n\t) ON COMMIT PRESERVE ROWS',
        'DROP TABLE "#Tableau_1_2_Connect_CheckCreateTempTableCap"',
    ),
    # Ways to learn the columns: tableau.github.io/connector-plugin-sdk/docs/metadata-enumeration.
    "columns, WHERE": (f"SELECT *\n{_CUSTOM}\nWHERE (1 = 0)",),
    "columns, LIMIT": (f"SELECT *\n{_CUSTOM}\nLIMIT 0",),
    "rows": (
        'SELECT "Custom SQL Query"."id" AS "id",\n  "Custom SQL Query"."image" AS "image",\n  "Custom SQL Query"."predicted" AS "predicted"'
        f"\n{_CUSTOM}\nLIMIT 1000",
    ),
    "view": (
        f'SELECT "Custom SQL Query"."predicted" AS "predicted",\n  COUNT(1) AS "cnt:ok"\n{_CUSTOM}\n'
        'WHERE (NOT ("Custom SQL Query"."predicted" IS NULL))\nGROUP BY 1',
    ),
    "filter": (f'SELECT CAST("Custom SQL Query"."predicted" AS TEXT) AS "predicted"\n{_CUSTOM}\nGROUP BY 1\nORDER BY 1 ASC NULLS FIRST',),
    "filter kept in a table": (
        'CREATE LOCAL TEMPORARY TABLE "#Tableau_2_3_Filter" (\n\t"predicted" TEXT\n\t) ON COMMIT PRESERVE ROWS',
        f'INSERT INTO "#Tableau_2_3_Filter" ("predicted")\nSELECT "Custom SQL Query"."predicted" AS "predicted"\n{_CUSTOM}\nGROUP BY 1',
        _FILTERED,
        'DROP TABLE "#Tableau_2_3_Filter"',
    ),
}

TABLEAU_INTO: Wrappings = {
    # psqlODBC declares a cursor for these, which PostgreSQL refuses (crate/crate/issues/10213).
    "what the server can do": (
        'SELECT *\nINTO TEMPORARY TABLE "#Tableau_1_1_Connect_CheckSelectIntoCap"\nFROM (SELECT 1 AS COL) AS CHECKTEMP',
        'DROP TABLE "#Tableau_1_1_Connect_CheckSelectIntoCap"',
    ),
    "filter kept in a table": (
        f'SELECT "Custom SQL Query"."predicted" AS "predicted"\nINTO TEMPORARY TABLE "#Tableau_2_3_Filter"\n{_CUSTOM}\nGROUP BY 1',
        _FILTERED,
        'DROP TABLE "#Tableau_2_3_Filter"',
    ),
}

_TABLE = 'from \n(\n    {q}\n) "$Table"'

POWER_BI: Wrappings = {
    # What folds above a native query: RavenDB's tests of its Power BI integration (PowerBIAstTests.cs), QuestDB's (PowerBI).
    # DISCARD ALL is Npgsql's when a connection comes out of its pool: github.com/datafusion-contrib/datafusion-postgres/issues/218.
    "columns": ('select * from ({q}) "_" limit 0',),
    "preview": ('select * from ({q}) "_" limit 1000', "DISCARD ALL", 'select * from ({q}) "_" limit 200'),
    "preview, columns named": (
        'select "$Table"."id" as "id",\n    "$Table"."image" as "image",\n    "$Table"."label" as "label",\n'
        f'    "$Table"."predicted" as "predicted"\n{_TABLE} limit 1000',
    ),
    "values of a slicer": (
        'select "rows"."predicted" as "predicted"\nfrom \n(\n    select "predicted"\n    '
        f'{_TABLE}\n) "rows"\ngroup by "predicted"\nlimit 501',
    ),
    "visual": (
        'select "_"."predicted",\n    "_"."a0"\nfrom \n(\n    select "rows"."predicted" as "predicted",\n        count(1) as "a0"\n'
        '    from \n    (\n        select "_"."id",\n            "_"."predicted"\n        from \n        (\n            {q}\n'
        '        ) "_"\n        where "_"."label" = \'red\'\n    ) "rows"\n    group by "predicted"\n) "_"\n'
        'where not "_"."a0" is null\nlimit 1000001',
    ),
    "sorted visual": (
        'select "_"."id" as "c2", "_"."predicted" as "c3" from ( select "_"."id", "_"."predicted", "_"."t0_0" from ( select '
        '"rows"."id" as "id", "rows"."predicted" as "predicted", case when "rows"."predicted" is null then 0 else 1 end as "t0_0" '
        'from ( select "id" as "id", "predicted" as "predicted" from ( {q} ) "$Table" ) "rows" group by "id", "predicted" ) "_" ) "_" '
        'order by "_"."t0_0", "_"."id" limit 501',
    ),
}

DBEAVER: Wrappings = {
    # SQLQueryTransformerCount.java; the limit of the data viewer is Statement.setMaxRows, or LIMIT added by SQLQueryTransformerLimit.java.
    "result": ("{q}",),
    "total number of rows": ("SELECT COUNT(*) FROM ({q}\n) dbvrcnt",),
    "total number of rows of an outer query": ("SELECT COUNT(*) FROM (SELECT id FROM ({q}) t WHERE predicted = 'red'\n) dbvrcnt",),
    "derived table": ("SELECT x.* FROM ({q}) x LIMIT 200",),
    "plan": ("EXPLAIN SELECT id FROM ({q}) t WHERE id < 0",),
}

_TAKEN = "(SELECT t.*, timestamptz '2026-01-01T00:00:00Z' + id * interval '20 minutes' AS taken FROM ({q}) t) AS seen"

GRAFANA: Wrappings = {
    # Its user writes the whole statement; these are the macros, expanded as in grafana-postgresql-datasource/macros.go:
    # $__timeGroupAlias(taken, '1h'), $__timeFilter(taken), $__unixEpochFilter(…).
    "time series": (
        f'SELECT\n  floor(extract(epoch from taken)/3600)*3600 AS "time",\n  predicted AS metric,\n  count(*) AS value\nFROM {_TAKEN}\n'
        "WHERE\n  taken BETWEEN '2026-01-01T01:00:00Z' AND '2026-01-01T06:30:00.123Z'\nGROUP BY 1, 2\nORDER BY 1, 2",
    ),
    "epochs": (
        f'SELECT extract(epoch from taken) as "time", id, predicted FROM {_TAKEN}\n'
        "WHERE extract(epoch from taken) >= 1767225600 AND extract(epoch from taken) <= 1767240000 ORDER BY 1",
    ),
    "table": ("{q}",),
    "variable": ("SELECT DISTINCT predicted FROM ({q}) t ORDER BY 1",),
}
