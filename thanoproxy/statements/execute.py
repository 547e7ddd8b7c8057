"""EXECUTE of a statement that was prepared with a PREDICT in it: read, and written out with its arguments."""

from __future__ import annotations

from collections.abc import Sequence

from thanoproxy.errors import SyntaxProblem
from thanoproxy.sql.clauses import Cursor
from thanoproxy.sql.source import Source
from thanoproxy.sql.tokens import split_statements, tokenize

__all__ = ["executed", "with_arguments"]


def executed(text: str) -> tuple[str, list[Source]] | None:
    """The name and the arguments of `EXECUTE name [(argument, …)]`, None if `text` is anything else (sql-execute.html)."""
    try:
        statements = split_statements(tokenize(text))
    except SyntaxProblem:
        return None
    if len(statements) != 1 or statements[0].tokens[0].word != "EXECUTE" or len(statements[0].tokens) < 2:
        return None
    tokens = statements[0].tokens
    cursor = Cursor(text, statements[0])
    cursor.at = 1
    name = cursor.identifier("the name of a prepared statement")
    if cursor.done:
        return name, []
    if tokens[2].text != "(" or tokens[-1].text != ")":
        return None
    arguments, depth, first = list[Source](), 0, 3
    for i in range(3, len(tokens)):
        depth += (tokens[i].text in "([") - (tokens[i].text in ")]")
        if (depth == 0 and tokens[i].text == ",") or i == len(tokens) - 1:
            start = tokens[first].start
            arguments.append(Source(text[start : tokens[i - 1].end], start))
            first = i + 1
    return name, arguments


def with_arguments(text: str, values: Sequence[Source]) -> Source:
    """`text` with its parameters $1, $2, … written out; what is wrong with one of them is at its place in the EXECUTE."""
    source, at = Source(), 0
    for token in tokenize(text):
        if token.kind == "PARAM" and 0 < int(token.text[1:]) <= len(values):
            source.add(text[at : token.start])
            source.extend(values[int(token.text[1:]) - 1])
            at = token.end
    source.add(text[at:])
    return source
