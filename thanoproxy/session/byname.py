"""PREPARE and EXECUTE as SQL, over the same names that Parse and Bind know."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from thanoproxy.catalog.quote import literal
from thanoproxy.errors import FeatureNotSupported, SyntaxProblem, ThanoError
from thanoproxy.session.prepared import StatementOfOurs
from thanoproxy.sql.source import Source
from thanoproxy.sql.tokens import identifier, split_statements, tokenize
from thanoproxy.statements.execute import executed, with_arguments
from thanoproxy.statements.shapes import Decorate, Prepare, Summarise
from thanoproxy.wire import messages
from thanoproxy.wire.pipeline import SegmentFailed, UpstreamError

if TYPE_CHECKING:
    from thanoproxy.session.attend import Attendant

__all__ = ["may_name", "refuse_by_name", "run_prepare", "written_out"]


async def run_prepare(attendant: Attendant, prepare: Prepare) -> None:
    """Prepare it upstream in a form that can be described; its ReadyForQuery is on its way when this returns."""
    exchange = attendant.exchange
    ours = StatementOfOurs(prepare.shape, exchange.codec, body=prepare.body, expansion=attendant.expansion)
    source = ours.source
    text = f"{prepare.head} {source.text}\n{ours.marker}"
    try:
        await attendant.check_model(prepare.shape)
        await exchange.ask(text)
    except SegmentFailed:
        pass
    except UpstreamError as problem:
        position = problem.fields.position
        shifted = None if position is None else max(position - len(prepare.head) - 1, 0)
        exchange.refuse(attendant.translated(problem.fields.with_position(shifted), source))
    except ThanoError as problem:
        await attendant.fail(problem)
    else:
        attendant.statements[prepare.name.encode(exchange.codec)] = ours
        exchange.client.write(messages.command_complete(b"PREPARE"))
    exchange.sync()


async def written_out(attendant: Attendant, text: str) -> Source | None:
    """An EXECUTE of a statement of ours as that statement, with the arguments in the parameters' place; None if it is none."""
    found = executed(text)
    ours = None if found is None else await attendant.ours(found[0].encode(attendant.exchange.codec))
    if found is None or ours is None or not ours.body:
        return None
    name, arguments = found
    rows = await attendant.exchange.ask(
        "SELECT pg_catalog.format_type(u.t, NULL) FROM pg_catalog.pg_prepared_statements s, "  # noqa: S608 - a quoted literal
        "pg_catalog.unnest(s.parameter_types) WITH ORDINALITY AS u(t, n) "
        f"WHERE s.name OPERATOR(pg_catalog.=) {literal(name)}::pg_catalog.text ORDER BY u.n"
    )
    if len(rows) != len(arguments):
        raise SyntaxProblem(
            f'wrong number of parameters for prepared statement "{name}"',
            detail=f"Expected {len(rows)} parameters but got {len(arguments)}.",
        )
    return with_arguments(ours.body, [_cast(argument, row[0] or "") for argument, row in zip(arguments, rows, strict=True)])


def may_name(attendant: Attendant, text: bytes) -> bool:
    """Whether a text may be about a statement or portal of ours."""
    text = text.upper()
    return (bool(attendant.statements) and b"EXECUTE" in text) or (bool(attendant.portals) and b"FETCH" in text)


async def refuse_by_name(attendant: Attendant, text: bytes) -> None:
    """Raises where SQL runs what the protocol has prepared, or fetches what it has bound: the server alone would leave our columns out."""
    if not (attendant.statements or attendant.portals) or attendant.exchange.pipeline.status == ord("E"):
        return
    try:
        statements = split_statements(tokenize(text.decode(attendant.exchange.codec, "replace")))
    except SyntaxProblem:
        return
    for statement in statements:
        first, *_, last = (*statement.tokens, statement.tokens[-1])
        if first.word == "FETCH" and (identifier(last) or "").encode(attendant.exchange.codec, "replace") in attendant.portals:
            raise FeatureNotSupported(
                "FETCH from a portal that holds a PREDICT is not supported", hint="DECLARE a cursor for it.", position=last.start + 1
            )
        for execute, name in pairwise(statement.tokens if first.word != "EXPLAIN" else ()):
            if execute.word != "EXECUTE":
                continue
            ours = await attendant.ours((identifier(name) or "").encode(attendant.exchange.codec, "replace"))
            if ours is not None and isinstance(ours.shape, Decorate | Summarise):
                raise FeatureNotSupported(
                    "EXECUTE of a prepared PREDICT, CONVERT or EVALUATE must be sent by itself, as a simple query", position=name.start + 1
                )


def _cast(argument: Source, type_: str) -> Source:
    source = Source("CAST((")
    source.extend(argument)
    source.add(f") AS {type_})")
    return source
