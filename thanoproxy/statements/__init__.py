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
from thanoproxy.statements import build_model, drop_model, list_models, predict
from thanoproxy.statements.shapes import Rewrite, Shape

__all__ = ["MARKS", "Part", "begins_ours", "recognise"]

STATEMENTS: dict[tuple[str, ...], Callable[[Cursor], Shape]] = {
    ("BUILD",): build_model.parse,
    ("PREDICT",): predict.parse,
    ("LIST",): list_models.parse,
    ("DROP", "MODEL"): drop_model.parse,
    ("DELETE", "MODEL"): drop_model.parse,
}
"""The words a statement begins with.  A single word is one that begins no statement of PostgreSQL's; the cursor stands behind it."""

LATER: dict[tuple[str, ...], str] = {
    ("FIT",): "FIT MODEL",
    ("EVALUATE",): "EVALUATE",
    ("CONVERT",): "CONVERT",
    ("SEARCH", "IMAGE"): "SEARCH IMAGE",
    ("PRINT", "IMAGE"): "PRINT IMAGE",
    ("DESCRIBE", "MODEL"): "DESCRIBE MODEL",
    ("SHOW", "MODELS"): "SHOW MODELS",
    ("ALTER", "MODEL"): "ALTER MODEL",
    ("UPLOAD", "MODEL"): "UPLOAD MODEL",
    ("EXPORT", "MODEL"): "EXPORT MODEL",
    ("GRANT", "USAGE", "ON", "MODEL"): "GRANT … ON MODEL",
    ("REVOKE", "USAGE", "ON", "MODEL"): "REVOKE … ON MODEL",
}
"""Statements of the dialect that are not offered yet: 0A000, so that nobody takes them for a typing error."""

MARKS = (b"MODEL", b"PREDICT", b"EVALUATE", b"CONVERT", b" IMAGE")
"""Every statement of ours holds one of these words: the bytes test that decides whether a text is looked at."""

_BEFORE_NESTED = frozenset({"(", "AS", "FOR", ")", "EXPLAIN", "ANALYZE", "VERBOSE"})


@dataclass(frozen=True, slots=True)
class Part:
    """One statement of a string, from character `start` to `end`; `shape` is None where it is PostgreSQL's."""

    start: int
    end: int
    shape: Shape | None


def recognise(text: str) -> list[Part] | None:
    """The statements of `text`, or None if none of them is ours.  Raises where one is ours and cannot be understood."""
    try:
        tokens = tokenize(text)
    except SyntaxProblem as problem:
        if begins_ours(text):
            raise problem from None
        return None
    statements = split_statements(tokens)
    if not any(_is_ours(statement) for statement in statements):
        return None
    return [Part(statement.start, statement.end, _shape(text, statement)) for statement in statements]


def begins_ours(text: str) -> bool:
    """Whether the first word alone says that `text` is meant for us, though it cannot be lexed."""
    words = text.split(None, 1)
    return bool(words) and (words[0].upper(),) in STATEMENTS


def _is_ours(statement: Statement) -> bool:
    return _key(statement, STATEMENTS) is not None or _key(statement, LATER) is not None or _nested(statement) is not None


def _key(statement: Statement, table: Mapping[tuple[str, ...], object]) -> tuple[str, ...] | None:
    return next((words for words in table if statement.words(len(words)) == words), None)


def _shape(text: str, statement: Statement) -> Shape | None:
    later = _key(statement, LATER)
    if later is not None:
        raise FeatureNotSupported(f"{LATER[later]} is not supported yet", position=statement.start + 1)
    words = _key(statement, STATEMENTS)
    if words is None:
        nested = _nested(statement)
        if nested is not None:
            hint = "Write PREDICT USING model AS query as a statement of its own."
            raise FeatureNotSupported("PREDICT is not supported inside other statements yet", hint=hint, position=nested.start + 1)
        return None
    cursor = Cursor(text, statement)
    cursor.at = 1
    shape = STATEMENTS[words](cursor)
    nested = _nested(statement)
    if nested is not None and not isinstance(shape, Rewrite) and nested.start >= shape.inner.start:
        raise FeatureNotSupported("PREDICT is not supported inside a query yet", position=nested.start + 1)
    return shape


def _nested(statement: Statement) -> Token | None:
    """PREDICT USING model somewhere behind the first word, where no table called predict could stand (JOIN predict USING (…))."""
    tokens: Sequence[Token] = statement.tokens
    for i in range(1, len(tokens) - 2):
        if tokens[i].word != "PREDICT" or tokens[i + 1].word != "USING" or tokens[i + 2].text == "(":
            continue
        before = tokens[i - 1]
        if (before.word or before.text) in _BEFORE_NESTED or tokens[0].word == "INSERT":
            return tokens[i]
    return None
