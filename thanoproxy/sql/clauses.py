"""The clauses our statements are made of, read from tokens: names, USING, OPTIONS (…), AS query.

Everything that can be wrong says what was expected and where (`position` counts characters of the client's text from 1).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pglast

from thanoproxy.errors import FeatureNotSupported, SyntaxProblem
from thanoproxy.sql.tokens import Statement, Token

__all__ = ["Cursor", "InnerQuery", "ModelName", "Option", "Value"]

Value = str | int | float | bool | None | list["Value"]

_CONSTANTS: Mapping[str, Value] = {"TRUE": True, "FALSE": False, "NONE": None, "NULL": None}
_QUERY_WORDS = frozenset({"SELECT", "VALUES", "WITH", "TABLE"})
_OUR_QUERIES = frozenset({"PREDICT", "CONVERT", "EVALUATE"})


@dataclass(frozen=True, slots=True)
class Option:
    """One `key = value`; positions point at the key and at the value."""

    key: str
    value: Value
    key_position: int
    position: int


@dataclass(frozen=True, slots=True)
class ModelName:
    """A model as written: folded like any identifier, `version` from `m@3`."""

    name: str
    version: int | None
    position: int

    def __str__(self) -> str:
        return self.name if self.version is None else f"{self.name}@{self.version}"


@dataclass(frozen=True, slots=True)
class InnerQuery:
    """The query after AS: its text and its 0-based character offset in the client's text."""

    text: str
    start: int


class Cursor:
    """A reading position in one statement's tokens."""

    def __init__(self, text: str, statement: Statement) -> None:
        self.text = text
        self.tokens = statement.tokens
        self.at = 0

    @property
    def done(self) -> bool:
        return self.at >= len(self.tokens)

    @property
    def position(self) -> int:
        """Where the next token begins, 1-based; behind the last one at the end."""
        return self.tokens[self.at].start + 1 if not self.done else self.tokens[-1].end + 1

    def peek(self) -> Token | None:
        return None if self.done else self.tokens[self.at]

    def next(self) -> Token:
        token = self.tokens[self.at]
        self.at += 1
        return token

    def error(self, expected: str, hint: str | None = None) -> SyntaxProblem:
        """The error for a next token that is not what `expected` names."""
        where = "at end of input" if self.done else f'at or near "{self.tokens[self.at].text}"'
        return SyntaxProblem(f"syntax error {where}: expected {expected}", hint=hint, position=self.position)

    def accept(self, *words: str) -> bool:
        """Step over `words` if they all come next (unquoted, any case; punctuation as it is)."""
        ahead = self.tokens[self.at : self.at + len(words)]
        if len(ahead) < len(words) or any((t.word or t.text) != w for t, w in zip(ahead, words, strict=True)):
            return False
        self.at += len(words)
        return True

    def expect(self, word: str, hint: str | None = None) -> None:
        if not self.accept(word):
            raise self.error(word if word.isalpha() else f'"{word}"', hint)

    def end(self, hint: str | None = None) -> None:
        if not self.done:
            raise self.error("the end of the statement", hint)

    def identifier(self, what: str, hint: str | None = None, *, fold: bool = True) -> str:
        """A name, folded to lower case unless quoted (or unless its case is worth keeping for a message)."""
        token = self.peek()
        if token is None or not (token.word or token.kind in ("IDENT", "UIDENT")) or token.kind == "UIDENT":
            raise self.error(what, hint)
        self.at += 1
        if token.text.startswith('"'):
            return token.text[1:-1].replace('""', '"')
        return _fold(token.text) if fold else token.text

    def model(self, what: str = "the name of a model") -> ModelName:
        """`name` or `name@version`."""
        position = self.position
        name = self.identifier(what)
        if not self.accept("@"):
            return ModelName(name, None, position)
        return ModelName(name, self.version("a version number after @"), position)

    def string(self, what: str, hint: str | None = None) -> str:
        token = self.peek()
        if token is None or token.kind != "SCONST":
            raise self.error(what, hint)
        self.at += 1
        return _string(token)

    def version(self, what: str) -> int:
        token = self.peek()
        if token is None or token.kind != "ICONST" or not token.text.isdecimal() or int(token.text) < 1:
            raise self.error(what)
        self.at += 1
        return int(token.text)

    def options(self) -> dict[str, Option]:
        """`OPTIONS (k = v, …)` if it comes next; empty parentheses and a trailing comma are fine."""
        found: dict[str, Option] = {}
        if not self.accept("OPTIONS"):
            return found
        self.expect("(", "Write OPTIONS (name = value, …).")
        while not self.accept(")"):
            option = self._option()
            if option.key in found:
                raise SyntaxProblem(f'option "{option.key}" is given twice', position=option.key_position)
            found[option.key] = option
            if not self.accept(","):
                self.expect(")", "Options are separated by commas.")
                break
        return found

    def query(self) -> InnerQuery:
        """`AS query`: all that is left of the statement."""
        self.expect("AS", "The query that gives the rows follows AS, e.g. … AS SELECT * FROM my_table.")
        if self.done:
            raise self.error("a query after AS")
        token = self.tokens[self.at]
        first = next((t for t in self.tokens[self.at :] if t.text != "("), token)
        if first.word not in _QUERY_WORDS | _OUR_QUERIES:
            raise self.error("a query (SELECT, VALUES, TABLE or WITH) after AS")
        start, end = token.start, self.tokens[-1].end
        self.at = len(self.tokens)
        return InnerQuery(self.text[start:end], start)

    def _option(self) -> Option:
        key_position = self.position
        key = self.identifier("the name of an option").lower()
        self.expect("=", f"Write {key} = value.")
        position = self.position
        return Option(key, self._value(key), key_position, position)

    def _value(self, key: str) -> Value:
        token = self.peek()
        if token is None:
            raise self.error(f"a value for {key}")
        if token.word in _CONSTANTS:
            self.at += 1
            return _CONSTANTS[token.word]
        if token.kind == "SCONST" or (token.kind == "IDENT" and token.text.startswith('"')):
            self.at += 1
            return _string(token)
        if token.text in ("+", "-") or token.kind in ("ICONST", "FCONST"):
            return self._number(key)
        if token.text == "[":
            return self._list(key)
        if token.kind == "PARAM":
            raise FeatureNotSupported(
                "parameters are not supported in OPTIONS", hint="Write the value as a literal.", position=self.position
            )
        hint = f"Put text in quotes: {key} = '{token.text}'." if token.word else None
        raise self.error(f"a value for {key}", hint)

    def _number(self, key: str) -> Value:
        sign = self.next().text if self.tokens[self.at].text in ("+", "-") else ""
        token = self.peek()
        if token is None or token.kind not in ("ICONST", "FCONST"):
            raise self.error(f"a number for {key}")
        self.at += 1
        digits = sign + token.text.replace("_", "")
        try:
            # To the lexer a whole number beyond int4 is no integer.
            return int(digits) if token.text.isdecimal() else int(digits, 0) if token.kind == "ICONST" else float(digits)
        except ValueError:
            return float(digits)

    def _list(self, key: str) -> Value:
        self.expect("[")
        values: list[Value] = []
        while not self.accept("]"):
            values.append(self._value(key))
            if not self.accept(","):
                self.expect("]")
                break
        return values


def _fold(word: str) -> str:
    """As PostgreSQL folds an identifier in a multi-byte encoding: ASCII letters only (downcase_identifier), 63 bytes at most."""
    folded = "".join(c.lower() if c.isascii() else c for c in word)
    return folded.encode()[:63].decode(errors="ignore")


def _string(token: Token) -> str:
    """The text of a string token, with its quotes and escapes resolved by PostgreSQL's own parser where it is not plain."""
    raw = token.text
    if raw[0] in "'\"" and raw[-1] == raw[0]:
        return raw[1:-1].replace(raw[0] * 2, raw[0])
    (statement,) = pglast.parse_sql(f"SELECT {raw}")
    select: Any = statement.stmt
    return str(select.targetList[0].val.val.sval)
