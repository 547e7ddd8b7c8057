"""The door to our statements: one file each, and one line in the list below.

`recognise` is asked about every text that passed the bytes test.  It answers None for text that is not ours, which then goes upstream
byte for byte; a statement that is ours but malformed raises its own error and never falls through to PostgreSQL's "syntax error".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from thanoproxy.errors import FeatureNotSupported, SyntaxProblem
from thanoproxy.sql.clauses import Cursor
from thanoproxy.sql.tokens import Statement, Token, split_statements, tokenize
from thanoproxy.statements import (
    alter_model,
    build_model,
    convert,
    copy_files,
    describe_model,
    drop_model,
    evaluate,
    export_model,
    fit_model,
    grant_usage,
    list_models,
    predict,
    refresh,
    upload_model,
)
from thanoproxy.statements import nested as inside
from thanoproxy.statements.nested import by_itself, first_hole, is_view, nested
from thanoproxy.statements.saved import save
from thanoproxy.statements.shapes import Collect, Decorate, Import, Nested, Prepare, Refresh, Rewrite, Save, SaveRows, Shape, Summarise

__all__ = ["MARKS", "Part", "begins_ours", "recognise"]

STATEMENTS: dict[tuple[str, ...], Callable[[Cursor], Rewrite | Decorate | Summarise | Collect | Import | Refresh]] = {
    ("BUILD",): build_model.parse,
    ("FIT",): fit_model.parse,
    ("PREDICT",): predict.parse,
    ("CONVERT",): convert.parse,
    ("EVALUATE",): evaluate.parse,
    ("LIST",): list_models.parse,
    ("SHOW", "MODELS"): list_models.parse,
    ("DESCRIBE", "MODEL"): describe_model.parse,
    ("ALTER", "MODEL"): alter_model.parse,
    ("DROP", "MODEL"): drop_model.parse,
    ("DELETE", "MODEL"): drop_model.parse,
    ("GRANT", "ON", "MODEL"): grant_usage.parse_grant,
    ("REVOKE", "ON", "MODEL"): grant_usage.parse_revoke,
    ("EXPORT", "MODEL"): export_model.parse,
    ("UPLOAD", "MODEL"): upload_model.parse,
    ("COPY", "OPTIONS"): copy_files.parse,
    ("REFRESH", "MATERIALIZED", "VIEW"): refresh.parse,
}
"""The words a statement begins with (`_opening`).  A single word begins no statement of PostgreSQL's; the cursor stands behind it."""

LATER: dict[tuple[str, ...], str] = {**inside.LATER}
"""Statements of the dialect that are not offered yet: 0A000, so that nobody takes them for a typing error."""

MARKS = (b"MODEL", b"PREDICT", b"EVALUATE", b"CONVERT", b" IMAGE", b"OPTIONS", b"REFRESH")
"""Every statement of ours holds one of these words: the bytes test that decides whether a text is looked at."""


@dataclass(frozen=True, slots=True)
class Part:
    """One statement of a string, from character `start` to `end`; `shape` is None where it is PostgreSQL's."""

    start: int
    end: int
    shape: Shape | Prepare | None


def recognise(text: str) -> list[Part] | None:
    """The statements of `text`, or None if none of them is ours.  Raises where one is ours and cannot be understood."""
    try:
        tokens = tokenize(text)
    except SyntaxProblem as problem:
        if begins_ours(text):
            raise problem from None
        return None
    statements = split_statements(tokens)
    for statement in statements:
        _refuse_misplaced(statement)
    if not any(_is_ours(statement) for statement in statements):
        return None
    return [Part(statement.start, statement.end, _shape(text, statement)) for statement in statements]


_AROUND = frozenset({"EXPLAIN", "PREPARE", "DECLARE", "CREATE"})
_BEFORE = frozenset({"EXPLAIN", "ANALYZE", "VERBOSE", "AS", "FOR", ")"})
_BY_THEMSELVES = frozenset({"BUILD", "FIT", "LIST", "SHOW", "DESCRIBE", "EXPORT", "UPLOAD"})
_QUERIES = frozenset({"LIST", "DESCRIBE"})


def _refuse_misplaced(statement: Statement) -> None:
    """Raises where a statement of ours stands in the place of a query, and is none: to the server it would be a syntax error."""
    tokens = statement.tokens
    if tokens[0].word not in _AROUND:
        return
    for before, token, behind in zip(tokens, tokens[1:], tokens[2:], strict=False):
        if token.word in _BY_THEMSELVES and behind.word in ("MODEL", "MODELS") and (before.word or before.text) in _BEFORE:
            name = f"{token.word} {behind.word}"
            hint = f"It may stand in parentheses: … FROM ({name} …)." if token.word in _QUERIES else "Send the statement by itself."
            raise FeatureNotSupported(f"{name} is not supported inside {tokens[0].word}", hint=hint, position=token.start + 1)


def begins_ours(text: str) -> bool:
    """Whether the first words say that `text` is meant for us, though it cannot be lexed."""
    words = tuple(word.upper() for word in text.split(None, 2)[:2])
    return words[:1] in STATEMENTS or words in STATEMENTS


def _prepare(text: str, statement: Statement) -> Prepare | None:
    """PREPARE name [(types)] AS: what follows is recognised as if it stood alone (sql-prepare.html)."""
    tokens = statement.tokens
    at = next((i for i in range(2, len(tokens)) if tokens[i].word == "AS"), None)
    if at is None or at + 1 >= len(tokens):
        return None
    body = text[tokens[at].end : statement.end]
    padded = " " * tokens[at].end + body
    rest = Statement(tokens[at + 1 :])
    shape = _shape(padded, rest)
    if isinstance(shape, Decorate | Summarise):
        shape = by_itself(padded, rest)  # what runs it without us (CREATE TABLE … AS EXECUTE) shall fail, and not leave columns out
    elif not isinstance(shape, Nested):
        return None
    cursor = Cursor(text, statement)
    cursor.at = 1
    name = cursor.identifier("a name for the statement")
    return Prepare(name, text[statement.start : tokens[at].end], padded, shape)


def _is_ours(statement: Statement) -> bool:
    return _key(statement, STATEMENTS) is not None or _key(statement, LATER) is not None or first_hole(statement) is not None


def _key(statement: Statement, table: Mapping[tuple[str, ...], object]) -> tuple[str, ...] | None:
    opening = _opening(statement)
    return next((words for words in table if opening[: len(words)] == words), None)


def _opening(statement: Statement) -> tuple[str, ...]:
    """The first words of the statement; of GRANT and REVOKE those that tell the kind of object, too.

    A table or a sequence may be called model, and a setting models.something: those are PostgreSQL's.
    """
    tokens = statement.tokens
    if tokens[0].word == "SHOW" and len(tokens) > 2 and tokens[2].text == ".":
        return ()
    if tokens[0].word == "COPY":
        return ("COPY", "OPTIONS") if _copies_files(tokens) else ()
    if tokens[0].word not in ("GRANT", "REVOKE"):
        return statement.words(4)
    at = next((i for i, token in enumerate(tokens) if token.word == "ON"), len(tokens))
    if at + 2 >= len(tokens) or tokens[at + 2].word in ("TO", "FROM") or tokens[at + 2].text in (",", "."):
        return ()
    return (tokens[0].word, "ON", tokens[at + 1].word)


def _copies_files(tokens: Sequence[Token]) -> bool:
    """PostgreSQL's own COPY has no such word behind the table's name; but a table may be called options (COPY BINARY options is old)."""
    if len(tokens) < 3 or tokens[1].text == "(" or tokens[1].word == "BINARY":
        return False
    at = 2
    while at + 1 < len(tokens) and tokens[at].text == ".":
        at += 2
    if at < len(tokens) and tokens[at].text == "(":  # columns, which are an error of ours then
        at = next((i + 1 for i in range(at, len(tokens)) if tokens[i].text == ")"), len(tokens))
    return at < len(tokens) and tokens[at].word == "OPTIONS"


def _around(text: str, statement: Statement) -> Nested | Save | SaveRows:
    found = nested(text, statement)
    words = [token.word for token in statement.tokens]
    if not is_view(words[:5]):
        return found
    return SaveRows(found, data=words[-2:] != ["NO", "DATA"]) if "MATERIALIZED" in words[:5] else save(found, statement.tokens)


def _shape(text: str, statement: Statement) -> Shape | Prepare | None:
    later = _key(statement, LATER)
    if later is not None:
        raise FeatureNotSupported(f"{LATER[later]} is not supported yet", position=statement.start + 1)
    if statement.tokens[0].word == "PREPARE":
        return _prepare(text, statement)
    words = _key(statement, STATEMENTS)
    if words is None:
        return None if first_hole(statement) is None else _around(text, statement)
    statement.check_closed()
    cursor = Cursor(text, statement)
    cursor.at = 1
    shape = STATEMENTS[words](cursor)
    hole = first_hole(statement)
    if isinstance(shape, Rewrite | Refresh | Import) or hole is None or hole.start < shape.inner.start:
        return shape
    if isinstance(shape, Collect):
        raise FeatureNotSupported(f"{hole.word} is not supported inside the query of a BUILD or FIT yet", position=hole.start + 1)
    return nested(text, statement)
