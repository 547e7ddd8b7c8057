"""Statements of ours inside PostgreSQL's own: `SELECT … FROM (PREDICT …)`, `INSERT INTO t PREDICT …`, `WITH p AS (PREDICT …) …`.

Each is a hole in the text around it.  Where one begins and ends is seen from the tokens alone, since no parser takes the text as it
is: it begins where neither a table nor a column called predict could stand, and ends with the parenthesis around it, or with the
statement, but for the clauses of the outer statement that may follow (`_CLAUSES_BEHIND`).
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from thanoproxy.errors import FeatureNotSupported, SyntaxProblem
from thanoproxy.sql.clauses import Cursor
from thanoproxy.sql.tokens import Statement, Token
from thanoproxy.statements import convert, describe_model, evaluate, list_models, predict
from thanoproxy.statements.shapes import Context, Decorate, Explain, Hole, Nested, Rewrite, Summarise, applying

__all__ = ["BEHIND_ITEM", "by_itself", "find_holes", "first_hole", "is_view", "nested", "reads_from", "shadowed"]

INSIDE: dict[tuple[str, str], Callable[[Cursor], Decorate | Summarise | Rewrite]] = {
    ("PREDICT", "USING"): predict.parse,
    ("CONVERT", "USING"): convert.parse,
    ("EVALUATE", "USING"): evaluate.parse,
    ("LIST", "MODEL"): list_models.parse,
    ("LIST", "MODELS"): list_models.parse,
    ("LIST", "THANOSQL"): list_models.parse,
    ("SHOW", "MODELS"): list_models.parse,
    ("DESCRIBE", "MODEL"): describe_model.parse,
}
"""The words that begin a statement of ours inside another one."""

_REWRITTEN = frozenset({"LIST", "SHOW", "DESCRIBE"})
"""Of those, the ones without a query: any of the words may be a table, and the next its alias in a join."""

LATER: dict[tuple[str, ...], str] = {("SEARCH", "IMAGE"): "SEARCH IMAGE", ("PRINT", "IMAGE"): "PRINT IMAGE"}
"""Those of them that are not offered yet."""

_APPLYING = frozenset({"PREDICT", "CONVERT", "EVALUATE"})
"""The words of those that have a query of their own."""

_SET_OPERATIONS = frozenset({"UNION", "INTERSECT", "EXCEPT", "ALL", "DISTINCT"})
_BEFORE = frozenset({"(", "AS", "FOR", ")", "EXPLAIN", "ANALYZE", "ANALYSE", "VERBOSE", "DO", "ALSO", "INSTEAD"}) | _SET_OPERATIONS
"""What stands before a query and never before a table or a column (`JOIN predict USING (…)`, `SELECT predict`)."""

_END = ""
_CLAUSES_BEHIND: dict[str, tuple[tuple[str, ...], ...]] = {
    "INSERT": (("RETURNING",), ("ON", "CONFLICT", "("), ("ON", "CONFLICT", "ON"), ("ON", "CONFLICT", "DO")),
    "CREATE": (("WITH", "DATA", _END), ("WITH", "NO", "DATA", _END)),
}
"""By the statement that a hole stands in (`_holder`): what ends one that no parenthesis ends.  A query may begin WITH data AS (…)."""

_AROUND = _APPLYING | {"SELECT", "WITH", "VALUES", "TABLE", "(", "INSERT", "UPDATE", "DELETE", "MERGE", "COPY", "DECLARE", "EXPLAIN"}
"""First words of the statements that may hold one of ours."""

_WRITES = frozenset({"INSERT", "UPDATE", "DELETE", "MERGE", "CREATE", "DECLARE", "SHARE"})
"""A statement with one of these words may change data, lock rows, or outlive its transaction."""

_WITH_FROM = frozenset({"SELECT", "UPDATE", "DELETE"})
_FROM = frozenset({"FROM", "JOIN", "USING"})
_CLAUSES = _FROM | {"SELECT", "WHERE", "GROUP", "HAVING", "ORDER", "VALUES", "SET", "RETURNING", "LIMIT", "OFFSET", "ON", "WINDOW", "IN"}
BEHIND_ITEM = frozenset(
    {"WHERE", "GROUP", "HAVING", "ORDER", "LIMIT", "OFFSET", "FETCH", "FOR", "UNION", "INTERSECT", "EXCEPT", "JOIN", "LEFT", "RIGHT"}
    | {"FULL", "WITH", "INNER", "CROSS", "NATURAL", "ON", "USING", "WINDOW", "RETURNING", "SET", "WHEN", "TABLESAMPLE"}
)
"""Words behind an item of FROM that are no alias."""


def first_hole(statement: Statement) -> Token | None:
    """Where the first statement of ours inside this one begins, if there is any."""
    tokens = statement.tokens
    return next((tokens[i] for i in range(1, len(tokens) - 1) if _begins(tokens, i)), None)


def nested(text: str, statement: Statement) -> Nested:
    """A statement with holes.  Raises where one of them is malformed, or where none can be supported."""
    first = first_hole(statement)
    assert first is not None, "asked only where there is one"
    _refuse_others(statement, first)
    statement.check_closed()
    holes = find_holes(text, statement.tokens, 0)
    reads = not any(token.word in _WRITES for token in statement.tokens)
    found = Nested(text[statement.start : statement.end], statement.start, holes, _explain(statement.tokens), reads)
    if found.outlives:
        for shape in applying(found):
            if isinstance(shape, Decorate):
                shape.must_keep_rows("a cursor")
    return found


def by_itself(text: str, statement: Statement) -> Nested:
    """A statement of ours that adds columns or summarises, as one whose only hole is all of it."""
    return Nested(text[statement.start : statement.end], statement.start, find_holes(text, statement.tokens, 0), reads=True)


def _refuse_others(statement: Statement, hole: Token) -> None:
    words = [token.word or token.text for token in statement.tokens[:5]]
    if words[0] in _AROUND or (words[0] == "CREATE" and ("TABLE" in words or is_view(words))):
        return
    created = next((word for word in words if word in ("FUNCTION", "PROCEDURE", "RULE")), "…")
    what = f"CREATE {created}" if words[0] == "CREATE" else words[0]
    raise FeatureNotSupported(
        f"{hole.word} is not supported inside {what} yet",
        hint=f"CREATE TABLE … AS {hole.word} … stores its rows.",
        position=hole.start + 1,
    )


def is_view(words: Sequence[str]) -> bool:
    """Whether a statement with these first words is CREATE [MATERIALIZED] VIEW."""
    return words[0] == "CREATE" and "VIEW" in words


def _explain(tokens: Sequence[Token]) -> Explain | None:
    """The options of EXPLAIN that change what we do (sql-explain.html); PostgreSQL judges them all."""
    if tokens[0].word != "EXPLAIN":
        return None
    words = list[str]()
    for token in tokens[1:]:
        if not words and token.text != "(" and token.word not in ("ANALYZE", "ANALYSE", "VERBOSE"):
            break
        words.append(token.word or token.text)
        if token.text == ")" or (words[0] != "(" and len(words) == 2):
            break
    pairs = dict(pairwise([*words, ""]))
    analyze = next((pairs[word] for word in ("ANALYZE", "ANALYSE") if word in pairs), "OFF")
    return Explain(analyze not in ("OFF", "FALSE", "0"), pairs.get("FORMAT", "TEXT") == "TEXT")


def find_holes(text: str, tokens: Sequence[Token], first: int) -> tuple[Hole, ...]:
    """The outermost holes among `tokens`, from index `first` on, in order; those inside them are theirs."""
    found, i = list[Hole](), first
    while i < len(tokens) - 1:
        if (i or tokens[0].word in _APPLYING) and _begins(tokens, i):
            end = _end(tokens, i)
            found.append(_hole(text, tokens, i, end))
            i = end
        else:
            i += 1
    return tuple(found)


def _begins(tokens: Sequence[Token], i: int) -> bool:
    words = (tokens[i].word, tokens[i + 1].word)
    if i == 0:
        return words in INSIDE
    before = tokens[i - 1].word or tokens[i - 1].text
    if words[0] in _REWRITTEN:
        return words in INSIDE and before == "(" and not (i + 2 < len(tokens) and tokens[i + 2].word in BEHIND_ITEM)
    if words not in INSIDE and words not in LATER:
        return False
    return (before in _BEFORE or _holder(tokens, i) == "INSERT") and not (i + 2 < len(tokens) and tokens[i + 2].text == "(")


def _holder(tokens: Sequence[Token], i: int) -> str:
    """INSERT or CREATE where token `i` stands in such a statement, which may lie behind a WITH, or in one; '' elsewhere."""
    return _nearest(tokens, i, _CLAUSES_BEHIND)


def _nearest(tokens: Sequence[Token], i: int, words: Container[str]) -> str:
    """The nearest of `words` before token `i` at its own level of parentheses, '' if there is none."""
    depth = 0
    for j in range(i - 1, -1, -1):
        depth += (tokens[j].text == ")") - (tokens[j].text == "(")
        if depth < 0:
            return ""
        if depth == 0 and tokens[j].word in words:
            return tokens[j].word
    return ""


def _end(tokens: Sequence[Token], i: int) -> int:
    clauses = _CLAUSES_BEHIND.get(_holder(tokens, i), ())
    depth = 0
    for j in range(i, len(tokens)):
        if tokens[j].text == "(":
            depth += 1
        elif tokens[j].text == ")":
            depth -= 1
            if depth < 0:
                return j
        elif depth == 0 and any(_reads(tokens, j, clause) for clause in clauses):
            return j
    return len(tokens)


def _reads(tokens: Sequence[Token], i: int, words: Sequence[str]) -> bool:
    return all((tokens[j].word or tokens[j].text if j < len(tokens) else _END) == word for j, word in enumerate(words, i))


def _hole(text: str, tokens: Sequence[Token], i: int, end: int) -> Hole:
    words = (tokens[i].word, tokens[i + 1].word)
    if words in LATER:
        raise FeatureNotSupported(f"{LATER[words]} is not supported yet", position=tokens[i].start + 1)
    if i >= 2 and tokens[i - 1].text == "(" and tokens[i - 2].word == "LATERAL":
        raise FeatureNotSupported(
            f"{words[0]} cannot be LATERAL: its query runs once, before the rows beside it are read", position=tokens[i - 2].start + 1
        )
    if i and tokens[i - 1].word in _SET_OPERATIONS:
        raise SyntaxProblem(
            f"{words[0]} needs parentheses in a set operation", hint=f"Write UNION ({words[0]} …).", position=tokens[i].start + 1
        )
    cursor = Cursor(text, Statement(tokens[i:end]))
    cursor.at = 1
    shape = INSIDE[words](cursor)
    span = (tokens[i].start, tokens[end - 1].end)
    if isinstance(shape, Rewrite):
        return Hole(*span, shape, (), _alias_at(tokens, i, end), ())
    inside = next(k for k in range(i, end) if tokens[k].start == shape.inner.start)
    holes = find_holes(text, tokens[:end], inside)
    return Hole(*span, shape, holes, _alias_at(tokens, i, end), _contexts(tokens, i, tokens[inside:end]))


def _alias_at(tokens: Sequence[Token], i: int, end: int) -> int | None:
    """Behind the parenthesis of an item of FROM without a name, which PostgreSQL takes from 16 on only."""
    if i < 2 or tokens[i - 1].text != "(" or not _in_from(tokens, i - 2) or end >= len(tokens):
        return None
    behind = tokens[end + 1] if end + 1 < len(tokens) else None
    named = behind is not None and bool(behind.word or behind.text.startswith('"')) and behind.word not in BEHIND_ITEM
    return None if named else tokens[end].end


def _in_from(tokens: Sequence[Token], i: int) -> bool:
    if tokens[i].text == ",":
        return _nearest(tokens, i, _CLAUSES) in _FROM
    if tokens[i].word != "FROM":
        return tokens[i].word in _FROM
    # Neither `IS DISTINCT FROM (…)` nor `extract(day FROM (…))`.
    return tokens[i - 1].word != "DISTINCT" and _nearest(tokens, i, _WITH_FROM) != ""


def reads_from(tokens: Sequence[Token], i: int) -> bool:
    """Whether what stands behind token `i` is an item of a FROM that is read, also at the beginning of a join in parentheses."""
    at = i
    while at > 0 and tokens[at].text == "(":
        at -= 1
    if at < i and tokens[at].word == "USING":
        return False  # JOIN … USING (column)
    return _in_from(tokens, at) and not (tokens[at].word == "FROM" and tokens[at - 1].word == "DELETE")


def shadowed(tokens: Sequence[Token], i: int, name: str) -> bool:
    """Whether `name`, standing at token `i`, is that of a common table expression around it."""
    for k in _enclosing_withs(tokens, i):
        recursive, items = _with_list(tokens, k)
        if any(item.name == name and (item.last < i or (recursive and item.first < i)) for item in items):
            return True
    return False


# Common table expressions around a hole, which its query may name.


def _contexts(tokens: Sequence[Token], i: int, inner: Sequence[Token]) -> tuple[Context, ...]:
    """The WITHs that are visible at token `i`, as far as the hole's query `inner` names what is in them, itself or by way of others."""
    lists = [_with_list(tokens, k) for k in _enclosing_withs(tokens, i)]
    visible = [item for _, items in lists for item in items if item.last < i]
    named, before = _names(inner), set[str]()
    while named != before:
        before, named = named, named.union(*(_names(tokens[item.first + 1 : item.last]) for item in visible if item.name in named))
    for item in visible:
        if item.name in named and _changes_data(tokens, item):
            raise FeatureNotSupported(
                f'the query of {tokens[i].word} cannot read "{item.name}", which changes data', position=tokens[item.first].start + 1
            )
    contexts = (
        Context(recursive, tuple((tokens[m.first].start, tokens[m.last].end) for m in items if m.last < i and m.name in named))
        for recursive, items in lists
    )
    return tuple(context for context in contexts if context.items)


class _Item(NamedTuple):
    """An item of a WITH: its folded name, and its first and last token."""

    name: str
    first: int
    last: int


def _names(tokens: Sequence[Token]) -> set[str]:
    """Whatever may be a name among `tokens`, folded."""
    return {token.text.strip('"').lower() for token in tokens if token.word or token.text.startswith('"')}


def _changes_data(tokens: Sequence[Token], item: _Item) -> bool:
    body = next(k for k in range(item.first, item.last) if tokens[k].word == "AS")
    return any(t.word in ("INSERT", "UPDATE", "DELETE", "MERGE") for t in tokens[body : min(body + 5, item.last)])


def _enclosing_withs(tokens: Sequence[Token], i: int) -> Iterator[int]:
    """The WITHs at the levels of parentheses that token `i` lies in, the outermost first."""
    open_at, found = list[int](), list[tuple[int, int]]()
    for k in range(i):
        if tokens[k].text == "(":
            open_at.append(k)
        elif tokens[k].text == ")":
            closed = open_at.pop() if open_at else -1
            found = [(at, level) for at, level in found if level != closed]
        elif tokens[k].word == "WITH" and _is_list(tokens, k):
            found.append((k, open_at[-1] if open_at else -1))
    yield from (at for at, _ in found)


def _is_list(tokens: Sequence[Token], k: int) -> bool:
    """`WITH [RECURSIVE] name [(…)] AS`, and no other use of the word."""
    at = k + 2 if k + 1 < len(tokens) and tokens[k + 1].word == "RECURSIVE" else k + 1
    behind = [token.word or token.text for token in tokens[at + 1 : at + 2]]
    return behind in (["AS"], ["("]) and bool(tokens[at].word or tokens[at].text.startswith('"'))


def _with_list(tokens: Sequence[Token], k: int) -> tuple[bool, list[_Item]]:
    """Whether it is RECURSIVE, and its items; an unfinished one is left out."""
    recursive = tokens[k + 1].word == "RECURSIVE"
    at, items = k + (2 if recursive else 1), list[_Item]()
    while at < len(tokens):
        first, depth, closed = at, 0, False
        while at < len(tokens):
            text = tokens[at].text
            depth += (text == "(") - (text == ")")
            if text == ")" and depth == 0 and any(t.word == "AS" for t in tokens[first:at]):
                closed = True
                break
            at += 1
        if not closed:
            break
        items.append(_Item(tokens[first].text.strip('"').lower(), first, at))
        if at + 1 >= len(tokens) or tokens[at + 1].text != ",":
            break
        at += 2
    return recursive, items
