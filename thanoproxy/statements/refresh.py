"""REFRESH MATERIALIZED VIEW: whether the view holds predictions, only the server knows."""

from __future__ import annotations

from thanoproxy.sql.clauses import Cursor
from thanoproxy.statements.shapes import Refresh

__all__ = ["parse"]


def parse(cursor: Cursor) -> Refresh:
    """Behind REFRESH (sql-refreshmaterializedview.html).  What is wrong with it, the server says."""
    tokens = cursor.tokens
    words = [token.word or token.text for token in tokens]
    first = 4 if words[3:4] == ["CONCURRENTLY"] else 3
    last = next((i for i in range(first, len(words)) if words[i] == "WITH"), len(words))
    cursor.at = len(tokens)
    name = "".join(token.text for token in tokens[first:last])
    text = cursor.text[tokens[0].start : tokens[-1].end]
    return Refresh(text, tokens[0].start, name, words[-2:] != ["NO", "DATA"])
