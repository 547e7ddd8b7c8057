"""Materialized views with predictions: before the server makes or refreshes one, thanosql.prediction gets what it will look up there.

    CREATE    the holes are those of the statement; what goes to the server has calls of `thanosql.predicted` in their place
    REFRESH   the holes are those of the view's definition (`thanoproxy.statements.saved.in_dialect`); the statement itself stays

Only images that have no prediction by this version of the model are predicted, each once; a file that was written anew is another
image.  The server refreshes with the rights of the view's owner, in a restricted way that we do not have for the view's query, so
nobody else may refresh one of these.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple
from uuid import uuid4

from thanoproxy import statements
from thanoproxy.catalog import store
from thanoproxy.catalog.quote import literal
from thanoproxy.errors import FeatureNotSupported, InsufficientPrivilege, InternalError
from thanoproxy.session.exchange import Bound
from thanoproxy.session.execute import open_decoration
from thanoproxy.session.materialise import hole_columns, refusing
from thanoproxy.session.tables import Tables
from thanoproxy.sql.source import Source
from thanoproxy.statements.render import filled, hole_query, inner_span, quoted, rewritten
from thanoproxy.statements.saved import head, in_dialect, kept
from thanoproxy.statements.shapes import Decorate, Decoration, Hole, Nested, Refresh, Rewrite, SaveRows, Summarise, inside_out
from thanoproxy.wire.values import BYTEA, text_array
from thanoproxy.workers import jobs

if TYPE_CHECKING:
    from thanoproxy.session.attend import Attendant

__all__ = ["Kept", "keep", "planned"]


class _Part(NamedTuple):
    """One hole: what predicts, its query, and the image's column there."""

    hole: Hole
    shape: Decorate
    decoration: Decoration
    query: Source
    image: str
    type_oid: int


class Kept(NamedTuple):
    """What the server may now be asked to run, and the temporary tables that it took to come so far."""

    source: Source
    tables: list[str]


class _Plan(NamedTuple):
    """`source` is the statement as the server may run it, once the parts are predicted, the innermost first."""

    source: Source
    parts: list[_Part]


async def planned(attendant: Attendant, shape: SaveRows | Refresh) -> Source:
    """What is prepared upstream.  Raises `ThanoError`, or `Refused` for what the server finds wrong."""
    return Source(shape.text, shape.start) if isinstance(shape, Refresh) else (await _plan(attendant, shape.statement)).source


async def keep(attendant: Attendant, shape: SaveRows | Refresh) -> Kept:
    """Predict what `shape` needs and has not got.  Raises as `planned` does."""
    if isinstance(shape, SaveRows):
        plan = await _plan(attendant, shape.statement)
        return Kept(plan.source, await _fill_all(attendant, shape.statement, plan.parts) if shape.data else [])
    source, expansion = await planned(attendant, shape), attendant.expansion
    statement = await _defined(attendant, shape)
    if statement is None or not shape.data:
        return Kept(source, [])
    attendant.expansion = Source()  # no position in a definition is one in the client's text
    tables = await _fill_all(attendant, statement, (await _plan(attendant, statement)).parts)
    attendant.expansion = expansion
    return Kept(source, tables)


async def _fill_all(attendant: Attendant, statement: Nested, parts: Sequence[_Part]) -> list[str]:
    tables = Tables(attendant)
    for part in parts:
        await _fill(attendant, tables, statement, part)
    return tables.made


async def _defined(attendant: Attendant, shape: Refresh) -> Nested | None:
    """The query of a materialized view with predictions; None if it is another one, or nothing at all."""
    found = await attendant.exchange.ask(store.saved_rows(shape.name))
    if not found:
        return None
    definition, name, own = found[0]
    if own != "t":
        raise InsufficientPrivilege(
            f"must be owner of materialized view {name}", hint="A view with predictions is refreshed by its owner (SET ROLE)."
        )
    assert definition is not None, "a view has one"
    # Around a PREDICT that is all there is, it is a statement with a hole like any other.
    parts = statements.recognise(f"TABLE v UNION (\n{in_dialect(definition)}\n)") or []
    if len(parts) != 1 or not isinstance(parts[0].shape, Nested):
        raise InternalError(f'the definition of materialized view "{name}" cannot be read')
    return parts[0].shape


async def _plan(attendant: Attendant, statement: Nested) -> _Plan:
    sources, parts = dict[Hole, Source](), list[_Part]()
    for hole in inside_out(statement.holes):
        if isinstance(hole.shape, Rewrite):
            sources[hole] = rewritten(hole.shape)
            continue
        if isinstance(hole.shape, Summarise):
            raise FeatureNotSupported(
                "EVALUATE is not supported inside a materialized view", hint="CREATE TABLE … AS stores its answer.", position=hole.start + 1
            )
        part = await _part(attendant, hole, hole.shape, hole_query(statement, hole, sources.__getitem__))
        own = filled(statement, *inner_span(hole), hole.holes, sources.__getitem__)
        sources[hole] = kept(statement, hole, own, part.image)
        parts.append(part)
    return _Plan(filled(statement, statement.start, statement.end, statement.holes, sources.__getitem__), parts)


async def _part(attendant: Attendant, hole: Hole, shape: Decorate, query: Source) -> _Part:
    exchange = attendant.exchange
    with refusing(attendant, query):
        columns = await hole_columns(exchange, shape, query)
    shape.must_keep_rows("a materialized view")
    decoration = await open_decoration(exchange, attendant.services, shape, columns)
    image = columns[decoration.image_column]
    return _Part(hole, shape, decoration, query, image.name.decode(exchange.codec, "replace"), image.type_oid)


async def _fill(attendant: Attendant, tables: Tables, statement: Nested, part: _Part) -> None:
    """Into thanosql.prediction what `part` needs and it does not have."""
    exchange, image = attendant.exchange, f"q.{quoted(part.image)}"
    images, wanted = tables.new(), tables.new()
    create = Source(
        f"CREATE TEMPORARY TABLE {images} (c0, c1) ON COMMIT DROP AS SELECT DISTINCT ON (k.key) k.key, k.image "  # noqa: S608
        f"FROM (SELECT thanosql.image_key({image}) AS key, {image} AS image FROM ("
    )
    create.extend(part.query)
    create.add("\n) AS q) AS k WHERE k.key IS NOT NULL")
    with refusing(attendant, create):
        await exchange.ask(create.text)
    await exchange.ask(f"CREATE TEMPORARY TABLE {images}_i (place pg_catalog.tid, identity pg_catalog.text) ON COMMIT DROP")
    tables.made.append(f"{images}_i")
    if part.type_oid != BYTEA:
        await _identify(attendant, images)
    made_by = {"statement": literal(head(statement, part.hole)), "artifact": literal(part.decoration.artifact)}
    await exchange.ask(_WANTED.format(images=images, wanted=wanted, **made_by))
    part.decoration.image_column = 1
    await tables.predict(wanted, part.decoration, part.shape.added)
    result = ", ".join(f"{literal(name)}, p.p{i}::pg_catalog.text" for i, name in enumerate(part.shape.names))
    await exchange.ask(_KEEP.format(wanted=wanted, result=result, **made_by))


async def _identify(attendant: Attendant, images: str) -> None:
    """A table beside that of the images: where a file was written anew, the prediction of its old content is void."""
    exchange, codec, last = attendant.exchange, attendant.exchange.codec, "(0,0)"
    while rows := await exchange.ask(_NEXT.format(images=images, last=last, count=_AT_ONCE)):
        places = [place or "" for place, _ in rows]
        last = places[-1]
        found = await attendant.services.pool.identify(jobs.Identify(uuid4().hex, [image for _, image in rows]))
        columns = [[None if value is None else value.encode(codec) for value in column] for column in (places, found.identities)]
        await exchange.ask(_IDENTIFIED.format(images=images), Bound().extended([text_array(column) for column in columns]))


_AT_ONCE = 2000
_NEXT = """
SELECT q.ctid, q.c1::pg_catalog.text FROM pg_temp.{images} q
WHERE q.ctid OPERATOR(pg_catalog.>) '{last}'::pg_catalog.tid ORDER BY q.ctid LIMIT {count}
"""
_IDENTIFIED = """
INSERT INTO pg_temp.{images}_i SELECT u.place::pg_catalog.tid, u.identity
FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2)) AS u (place, identity)
"""
_WANTED = """
CREATE TEMPORARY TABLE {wanted} (c0, c1, c2) ON COMMIT DROP AS SELECT q.c0, q.c1, coalesce(i.identity, '')
FROM pg_temp.{images} q LEFT JOIN pg_temp.{images}_i i ON i.place OPERATOR(pg_catalog.=) q.ctid
WHERE NOT EXISTS (
    SELECT FROM thanosql.prediction p
    WHERE p.owner OPERATOR(pg_catalog.=) CURRENT_USER AND p.statement OPERATOR(pg_catalog.=) {statement}::pg_catalog.text
      AND p.image OPERATOR(pg_catalog.=) q.c0 AND p.artifact OPERATOR(pg_catalog.=) {artifact}::pg_catalog.text
      AND p.identity OPERATOR(pg_catalog.=) coalesce(i.identity, ''))
"""
_KEEP = """
INSERT INTO thanosql.prediction (statement, image, artifact, identity, result)
SELECT {statement}, q.c0, {artifact}, q.c2, pg_catalog.jsonb_build_object({result})
FROM pg_temp.{wanted} q JOIN pg_temp.{wanted}_p p ON p.place OPERATOR(pg_catalog.=) q.ctid
ON CONFLICT (owner, statement, image) DO UPDATE
SET artifact = excluded.artifact, identity = excluded.identity, result = excluded.result, predicted_at = excluded.predicted_at
"""
