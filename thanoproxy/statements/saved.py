"""Views that hold predictions.

`CREATE VIEW v AS … (PREDICT …) …` makes a real view.  In a prediction's place it has a call of `thanosql.saved`, which raises, and whose
arguments say all that it takes to predict:

    client   CREATE VIEW v AS PREDICT USING m AS SELECT id, image FROM t
    server   CREATE VIEW v WITH (security_invoker = true) AS
             SELECT q.*, thanosql.saved('PREDICT USING m AS', 'predicted', NULL::text) AS "predicted" FROM (SELECT id, image FROM t) AS q

So the definition lives where PostgreSQL keeps it: it follows tables and columns that are renamed, it is dumped and restored, \\dv lists it,
and DROP takes it away.  Where a statement reads the view, its definition (`pg_get_viewdef`) is turned back into the dialect and put in the
place of the name; what comes of it is a statement with holes like any other.

A materialized view has a call of `thanosql.predicted` there, which looks a prediction up in a table of ours.  The proxy fills that before
it lets the server make or refresh the view, with what the table does not have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pglast
from pglast import ast

from thanoproxy.catalog.quote import literal
from thanoproxy.errors import FeatureNotSupported, InvalidDefinition, SyntaxProblem
from thanoproxy.sql.clauses import Cursor
from thanoproxy.sql.source import Source
from thanoproxy.sql.tokens import Token, identifier, split_statements, tokenize
from thanoproxy.sql.tree import walk
from thanoproxy.statements.nested import INSIDE
from thanoproxy.statements.render import filled, inner_span, quoted, rewritten
from thanoproxy.statements.shapes import Added, Decorate, Hole, Nested, Rewrite, Save, Summarise
from thanoproxy.wire.values import SQL_NAMES

__all__ = ["head", "in_dialect", "kept", "save", "saved", "stub"]

_OPTION = "security_invoker"
_FUNCTIONS = ("saved", "predicted")
_QUERY = "SELECT NULL"


def in_dialect(definition: str) -> str:
    """What `pg_get_viewdef` gives, with the PREDICTs that were written.

    Raises `InvalidDefinition`: anybody can write a view that calls `thanosql.saved` with anything, which would become part of the
    statement of whoever reads the view.
    """
    definition = definition.strip().removesuffix(";")
    tokens = tokenize(definition)
    calls = _calls(definition)
    if not calls:
        return definition  # it reads other views
    places = [i for i in range(len(tokens) - 3) if _is_call(tokens, i)]
    if len(calls) != len(places):
        raise InvalidDefinition("the definition of a view with predictions cannot be read")
    edits: dict[tuple[int, int], str] = {}
    for (head, name), i in zip(calls, places, strict=True):
        _check_head(head)
        end = _closing(tokens, i + 3)
        query = _from_query(tokens, end)
        alias = tokens[_closing(tokens, query) + 1]
        edits[tokens[i].start, tokens[end].end] = f"{definition[alias.start : alias.end]}.{quoted(name)}"
        edits[tokens[query].end, tokens[query].end] = f"{head} "
    return _plain(definition, calls) or _edited(definition, edits)


def _check_head(head: str) -> None:
    """It must be all of a statement but its query, and nothing else."""
    text = f"{head} {_QUERY}"
    try:
        (statement,) = split_statements(tokenize(text))
        statement.check_closed()
        cursor = Cursor(text, statement)
        cursor.at = 1
        first, second = statement.words(2)
        shape = INSIDE[first, second](cursor)
    except (SyntaxProblem, ValueError, KeyError):
        raise InvalidDefinition("a view calls thanosql.saved with what is no statement", detail=head) from None
    if isinstance(shape, Rewrite) or shape.inner.text != _QUERY:
        raise InvalidDefinition("a view calls thanosql.saved with more than a statement", detail=head)


def _is_call(tokens: Sequence[Token], i: int) -> bool:
    words = [token.word or token.text for token in tokens[i : i + 4]]
    return words[:2] == ["THANOSQL", "."] and words[2].lower() in _FUNCTIONS and words[3] == "("


def _edited(text: str, edits: Mapping[tuple[int, int], str]) -> str:
    parts, at = list[str](), 0
    for (start, end), replacement in sorted(edits.items()):
        parts += [text[at:start], replacement]
        at = end
    return "".join([*parts, text[at:]])


def _calls(definition: str) -> list[tuple[str, str]]:
    """The first two arguments of each call that stands for a prediction, in order."""
    found = []
    for node in walk(pglast.parse_sql(definition)[0].stmt):
        if isinstance(node, ast.FuncCall) and _is_ours([part.sval for part in node.funcname or ()]):
            constants = [argument.arg if isinstance(argument, ast.TypeCast) else argument for argument in (node.args or ())[:2]]
            head, name = (_text(constant) for constant in constants)
            found.append((node.location, head, name))
    return [(head, name) for _, head, name in sorted(found)]


def _text(constant: Any) -> str:
    if isinstance(constant, ast.A_Const) and isinstance(constant.val, ast.String):
        return str(constant.val.sval)
    raise InvalidDefinition("a view calls thanosql.saved with what is no statement")


def _is_ours(name: Sequence[str]) -> bool:
    return len(name) == 2 and name[0] == "thanosql" and name[1] in _FUNCTIONS


def _plain(definition: str, calls: Sequence[tuple[str, str]]) -> str | None:
    """A view that is one PREDICT and nothing else, as that: then what nobody reads of it need not be predicted."""
    select: Any = pglast.parse_sql(definition)[0].stmt
    (item, *others), head = select.fromClause or (None,), calls[0][0]
    clauses = (select.whereClause, select.groupClause, select.havingClause, select.sortClause, select.limitCount, select.limitOffset)
    more = (select.withClause, select.distinctClause, select.windowClause, select.lockingClause, select.larg, *others)
    if not isinstance(item, ast.RangeSubselect) or any(clauses) or any(more) or any(call[0] != head for call in calls):
        return None
    inner: Any = item.subquery
    while inner.larg is not None:
        inner = inner.larg
    given = [target.name or _last(target.val) for target in inner.targetList or ()]
    taken = [target.name or _last(target.val) for target in select.targetList]
    own = [_last(target.val) for target in select.targetList[: len(given)]]
    if None in given or taken != [*given, *(name for _, name in calls)] or own != given:
        return None
    tokens = tokenize(definition)
    call = next(i for i in range(len(tokens)) if tokens[i].word == "THANOSQL")
    query = _from_query(tokens, call)
    return f"{head} " + definition[tokens[query].end : tokens[_closing(tokens, query)].start]


def _last(node: Any) -> str | None:
    """The name of a column that stands by itself."""
    fields = node.fields if isinstance(node, ast.ColumnRef) else ()
    return getattr(fields[-1], "sval", None) if fields else None


def _closing(tokens: Sequence[Token], i: int) -> int:
    """The parenthesis that closes the one at `i`."""
    depth = 0
    for j in range(i, len(tokens)):
        depth += (tokens[j].text == "(") - (tokens[j].text == ")")
        if depth == 0:
            return j
    raise InvalidDefinition("the definition of a view with predictions cannot be read")


def _from_query(tokens: Sequence[Token], i: int) -> int:
    """The parenthesis that opens the query behind the next FROM at the level of token `i`."""
    depth = 0
    for j in range(i + 1, len(tokens) - 1):
        depth += (tokens[j].text == "(") - (tokens[j].text == ")")
        if depth == 0 and tokens[j].word == "FROM" and tokens[j + 1].text == "(":
            return j + 1
    raise InvalidDefinition("the definition of a view with predictions cannot be read")


# Making them.


def save(statement: Nested, tokens: Sequence[Token]) -> Save:
    """CREATE [OR REPLACE] [TEMP] VIEW name [(columns)] [WITH (options)] AS a query with holes."""
    at = next(i for i, token in enumerate(tokens) if token.word == "VIEW") + 1
    if at + 2 < len(tokens) and tokens[at + 1].text == ".":
        at += 2
    name = identifier(tokens[at]) if at < len(tokens) else None
    body = next((i for i in range(at, len(tokens)) if tokens[i].word == "AS"), None)
    if name is None or body is None:
        raise SyntaxProblem(
            f'syntax error at or near "{tokens[min(at, len(tokens) - 1)].text}"', position=tokens[min(at, len(tokens) - 1)].start + 1
        )
    options = next((i for i in range(at, body) if tokens[i].word == "WITH"), None)
    if options is None:
        return Save(statement, name, tokens[body].start, f"WITH ({_OPTION} = true) ")
    given = next((i for i in range(options, body) if tokens[i].word == _OPTION.upper()), None)
    if given is None:
        return Save(statement, name, tokens[options + 1].end, f"{_OPTION} = true, ")
    if tokens[given + 1].text == "=" and tokens[given + 2].text.strip("'").upper() not in ("TRUE", "ON", "1"):
        raise FeatureNotSupported(
            "a view with predictions is always security_invoker", detail=_WHY_INVOKER, position=tokens[given].start + 1
        )
    return Save(statement, name, tokens[body].start, "")


_WHY_INVOKER = "Its query runs in the session of whoever reads it, with the rights of that role."


def saved(save_: Save) -> Source:
    """The CREATE VIEW that the server gets."""
    statement = save_.statement
    spans = ((statement.start, save_.place), (save_.place, statement.end))
    before, behind = (filled(statement, *span, statement.holes, lambda hole: stub(statement, hole)) for span in spans)
    before.add(save_.option)
    before.extend(behind)
    return before


def stub(statement: Nested, hole: Hole) -> Source:
    """The hole as a view has it."""
    if isinstance(hole.shape, Rewrite):
        return rewritten(hole.shape)
    query = filled(statement, *inner_span(hole), hole.holes, lambda inside: stub(statement, inside))
    columns = hole.shape.answers if isinstance(hole.shape, Summarise) else hole.shape.added
    calls = [f"thanosql.saved({_arguments(statement, hole, column)}) AS {quoted(column.name)}" for column in columns]
    return _selected(calls if isinstance(hole.shape, Summarise) else ["q.*", *calls], query)


def kept(statement: Nested, hole: Hole, query: Source, image: str) -> Source:
    """The hole as a materialized view has it, with the name of its image column."""
    assert isinstance(hole.shape, Decorate), "only predictions of rows are kept"
    key = f"thanosql.image_key(q.{quoted(image)})"
    calls = (f"thanosql.predicted({_arguments(statement, hole, c, key)}) AS {quoted(c.name)}" for c in hole.shape.added)
    return _selected(["q.*", *calls], query)


def head(statement: Nested, hole: Hole) -> str:
    """The hole's statement up to its query."""
    return statement.text[hole.start - statement.start : inner_span(hole)[0] - statement.start].strip()


def _arguments(statement: Nested, hole: Hole, column: Added, *more: str) -> str:
    return ", ".join((literal(head(statement, hole)), literal(column.name), *more, f"NULL::{SQL_NAMES[column.type_oid]}"))


def _selected(columns: Sequence[str], query: Source) -> Source:
    source = Source(f"SELECT {', '.join(columns)} FROM (")  # noqa: S608 - literals and quoted names
    source.extend(query)
    source.add("\n) AS q")
    return source
