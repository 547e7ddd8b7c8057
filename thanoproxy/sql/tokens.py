"""PostgreSQL's own lexer over a client's text, and the statements that the tokens form.

`pglast.parser.scan` is the server's flex scanner: comments, dollar quotes, escapes and `;` in strings come out right even though our
statements do not parse.  `pglast.parser.split` must not be used: it drops statements without a PostgreSQL keyword.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pglast.parser import ParseError, scan

from thanoproxy.errors import SyntaxProblem

__all__ = ["Statement", "Token", "identifier", "split_statements", "tokenize"]


class Token(NamedTuple):
    """One token; `start` and `end` are character offsets, `word` is its text in upper case if it is an unquoted word, else ''."""

    kind: str
    start: int
    end: int
    text: str
    word: str


class Statement(NamedTuple):
    """One statement of a string: its tokens, never empty, without the semicolon."""

    tokens: Sequence[Token]

    @property
    def start(self) -> int:
        return self.tokens[0].start

    @property
    def end(self) -> int:
        return self.tokens[-1].end

    def check_closed(self) -> None:
        """Raise `SyntaxProblem` where a semicolon stands in parentheses that nobody closed, as the server's parser does."""
        for token in self.tokens:
            if token.text == ";":
                raise SyntaxProblem('syntax error at or near ";"', hint="A parenthesis before it is not closed.", position=token.start + 1)

    def words(self, count: int) -> tuple[str, ...]:
        return tuple(token.word for token in self.tokens[:count])


def identifier(token: Token) -> str | None:
    """The name that a token is, folded unless quoted (ASCII letters only, as in a multi-byte encoding); None if it is none."""
    if token.text.startswith('"'):
        return token.text[1:-1].replace('""', '"')
    return "".join(c.lower() if c.isascii() else c for c in token.text) if token.word else None


def tokenize(text: str) -> list[Token]:
    """The tokens of `text` without comments.  Raises `SyntaxProblem` where PostgreSQL's lexer would."""
    try:
        found = scan(text)
    except ParseError as problem:
        message, index = problem.args[0], problem.args[1]
        raise SyntaxProblem(str(message), position=int(index) + 1) from None
    return [_token(text, t.name, t.start, t.end + 1) for t in found if t.name not in ("SQL_COMMENT", "C_COMMENT")]


def _token(text: str, kind: str, start: int, end: int) -> Token:
    raw = text[start:end]
    word = raw.upper() if raw[0].isalpha() or raw[0] == "_" else ""
    if kind in ("SCONST", "BCONST", "XCONST", "USCONST", "UIDENT"):
        word = ""
    return Token(kind, start, end, raw, word)


def split_statements(tokens: Sequence[Token]) -> list[Statement]:
    """The statements between semicolons, as psql splits them: not inside parentheses, nor inside BEGIN ATOMIC … END."""
    statements, first, parens, atomic = list[Statement](), 0, 0, 0
    for i, token in enumerate(tokens):
        if token.text == "(":
            parens += 1
        elif token.text == ")":
            parens -= 1
        elif token.word == "ATOMIC" and i and tokens[i - 1].word == "BEGIN":
            atomic = 1
        elif atomic and token.word == "CASE":
            atomic += 1
        elif atomic and token.word == "END":
            atomic -= 1
        elif token.text == ";" and parens <= 0 and not atomic:
            if i > first:
                statements.append(Statement(tokens[first:i]))
            first = i + 1
    if len(tokens) > first:
        statements.append(Statement(tokens[first:]))
    return statements
