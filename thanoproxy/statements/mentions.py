"""Where a text reads relations whose names are those of views with predictions, and where it gives such a view another name."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from typing import NamedTuple

from thanoproxy.errors import SyntaxProblem
from thanoproxy.sql.source import Source
from thanoproxy.sql.tokens import Statement, Token, identifier, split_statements, tokenize
from thanoproxy.statements.nested import BEHIND_ITEM, reads_from, shadowed
from thanoproxy.statements.render import quoted

__all__ = ["Mention", "expanded", "mentions", "named_anew"]

_FIRST_WORDS = frozenset(
    {"SELECT", "WITH", "VALUES", "TABLE", "(", "INSERT", "UPDATE", "DELETE", "MERGE", "COPY", "DECLARE", "EXPLAIN", "PREPARE"}
    | {"PREDICT", "BUILD", "FIT", "CONVERT", "EVALUATE"}
)
"""What begins a statement that reads from FROM.  Of those with CREATE, it is CREATE TABLE and CREATE MATERIALIZED VIEW."""


class Mention(NamedTuple):
    """Where a text reads something by a name: the 0-based span to be replaced, the name as written, and folded without its schema.

    `named` says that an alias follows; `whole` that the span is `TABLE name`.
    """

    start: int
    end: int
    written: str
    name: str
    named: bool
    whole: bool


def mentions(text: str, names: Container[str]) -> list[Mention]:
    """Where `text` reads relations with one of these names.  What they are, only the server knows."""
    try:
        statements = split_statements(tokenize(text))
    except SyntaxProblem:
        return []
    return [mention for statement in statements for mention in _mentions(text, statement.tokens, names)]


def _mentions(text: str, tokens: Sequence[Token], names: Container[str]) -> Iterator[Mention]:
    words = [token.word or token.text for token in tokens[:4]]
    if words[0] not in _FIRST_WORDS and not (words[0] == "CREATE" and {"TABLE", "MATERIALIZED"} & set(words)):
        return
    for i, token in enumerate(tokens):
        name = identifier(token)
        if i == 0 or name is None or name not in names:
            continue
        first = i - 2 if i > 2 and tokens[i - 1].text == "." and identifier(tokens[i - 2]) is not None else i
        behind = tokens[i + 1] if i + 1 < len(tokens) else None
        if tokens[first - 1].text == "." or (behind is not None and behind.text in ("(", ".")):
            continue
        before = first - 2 if tokens[first - 1].word == "ONLY" else first - 1
        whole = _is_table_command(tokens, before)
        if not (whole or reads_from(tokens, before)) or (first == i and shadowed(tokens, i, name)):
            continue
        named = behind is not None and (bool(behind.word) or behind.text.startswith('"')) and behind.word not in BEHIND_ITEM
        start = tokens[before].start if whole else tokens[before + 1].start
        yield Mention(start, token.end, "".join(part.text for part in tokens[first : i + 1]), name, named, whole)


def _is_table_command(tokens: Sequence[Token], i: int) -> bool:
    """`TABLE name` where a query may stand (sql-select.html#SQL-TABLE)."""
    if tokens[i].word != "TABLE":
        return False
    before = (tokens[i - 1].word or tokens[i - 1].text) if i else ""
    return before in ("", "(", "AS", "FOR", "UNION", "EXCEPT", "INTERSECT", "ALL", "DISTINCT", "EXPLAIN", "ANALYZE", "VERBOSE", ")")


def expanded(text: str, found: Mapping[Mention, str]) -> Source:
    """`text` with these definitions in the dialect in the names' place."""
    source, at = Source(), 0
    for mention, definition in sorted(found.items()):
        source.add(text[at : mention.start], at)
        query = f"({definition}\n)"
        source.add(f"SELECT * FROM {query}" if mention.whole else query)  # noqa: S608 - the view's own definition
        if not mention.named:
            source.add(f" AS {quoted(mention.name)}")
        at = mention.end
    source.add(text[at:], at)
    return source


def named_anew(text: str, names: Container[str]) -> set[str]:
    """The names that a view may get by `text`, which names one of these: ALTER VIEW v RENAME TO w, CREATE VIEW w AS … v …"""
    try:
        statements = split_statements(tokenize(text))
    except SyntaxProblem:
        return set()
    found = set[str]()
    for statement in statements:
        if any(identifier(token) in names for token in statement.tokens):
            found |= _given(statement)
    return found


def _given(statement: Statement) -> set[str]:
    tokens, words = statement.tokens, [token.word for token in statement.tokens]
    if words[0] == "ALTER" and "RENAME" in words and words[-2] == "TO":
        return {name for name in [identifier(tokens[-1])] if name is not None}
    if words[0] == "CREATE" and "VIEW" in words[:6]:
        names = (identifier(token) for token in tokens[words.index("VIEW") + 1 : words.index("VIEW") + 4])
        return {name for name in names if name is not None and name not in ("as", "with")}
    return set()
