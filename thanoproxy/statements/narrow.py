"""How little of a hole's query has to be predicted: what the statement around it provably does not need, is left out before.

    nobody reads the prediction           nothing is predicted        SELECT count(*) FROM (PREDICT …)
    WHERE on the query's own columns      those rows only             … FROM (PREDICT …) t WHERE id < 10, … WHERE 1 = 0
    LIMIT, ORDER BY on own columns        so many rows only           SELECT * FROM (PREDICT …) t LIMIT 10

Everything is also left where it stands, so a condition that is applied early is applied twice.  It must be sure that it means the
same in both places: it is made of operators, constants, parameters and columns alone (a function might be volatile, a subquery might
read anything), and the hole is the only item of its FROM (beside an outer join, a filter from above means something else).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pglast
from pglast import ast
from pglast.enums import BoolExprType, LimitOption, SetOperation
from pglast.parser import ParseError
from pglast.stream import RawStream

from thanoproxy.sql.tree import walk

__all__ = ["EVERYTHING", "MARK", "Need", "needs"]

MARK = "thanoproxy_hole_"
"""Begins the alias of a hole's query in the described text; its number follows."""

_PLAIN = (
    ast.A_ArrayExpr,
    ast.A_Const,
    ast.A_Expr,
    ast.BoolExpr,
    ast.BooleanTest,
    ast.CoalesceExpr,
    ast.ColumnRef,
    ast.NullTest,
    ast.ParamRef,
    ast.String,
    ast.TypeCast,
    ast.TypeName,
    ast.Integer,
    ast.Float,
    ast.Boolean,
    ast.BitString,
)
"""What a condition may consist of to be applied early."""


@dataclass(frozen=True, slots=True)
class Clause:
    """A condition or an order, and the columns that it names."""

    text: str
    columns: frozenset[str]


@dataclass(frozen=True, slots=True)
class Need:
    """What is needed of a hole.  `exact` says that the conditions are all there are, so that `limit` counts the rows behind them."""

    predictions: bool = True
    alias: str = "q"
    where: tuple[Clause, ...] = ()
    order: Clause | None = None
    limit: int | None = None

    def clauses(self, columns: Collection[str]) -> str:
        """WHERE, ORDER BY and LIMIT for a query with these columns, '' where none can be told to mean the same."""
        where = [clause.text for clause in self.where if clause.columns <= set(columns)]
        text = " WHERE " + " AND ".join(f"({condition})" for condition in where) if where else ""
        ordered = self.order is None or self.order.columns <= set(columns)
        if self.limit is None or len(where) < len(self.where) or not ordered:
            return text
        return text + ("" if self.order is None else f" ORDER BY {self.order.text}") + f" LIMIT {self.limit}"


EVERYTHING = Need()


class _Around(NamedTuple):
    """`items`, by the identity of a subquery's SELECT: the item of FROM that it is, and the SELECT whose item that is."""

    items: Mapping[int, tuple[Any, Any]]
    parameters: Sequence[int | None]


def needs(described: str, added: Sequence[Sequence[str]], parameters: Sequence[int | None] = ()) -> list[Need]:
    """For each hole of a described statement, whose own alias ends in its number, what is needed.

    `added` names its added columns; `parameters` are the values of $1, $2, … as far as they are whole numbers.
    """
    try:
        (statement,) = pglast.parse_sql(described)
    except (ParseError, ValueError):
        return [EVERYTHING for _ in added]
    found = [EVERYTHING for _ in added]
    items = list(_items(statement.stmt))
    around = {id(item.subquery): (item, parent) for item, parent in items}
    for item, parent in items:
        number = _number(item)
        if number is not None and number < len(found):
            found[number] = _need(item, parent, statement.stmt, frozenset(added[number]), _Around(around, parameters))
    return found


def _need(item: Any, parent: Any, whole: Any, added: frozenset[str], around: _Around) -> Need:
    alias = item.alias.aliasname if item.alias is not None else "q"
    renamed = item.alias is not None and item.alias.colnames
    predictions = bool(renamed) or _reads(whole, item, added, alias)
    if renamed or parent is None or not _alone(parent, item):
        return Need(predictions, alias)
    conjuncts = list(_conjuncts(parent.whereClause))
    where = [_clause(conjunct, alias) for conjunct in conjuncts]
    pushed = tuple(clause for clause in where if clause is not None)
    limit = _limit(parent, around) if None not in where and _row_by_row(parent) else None
    order = _order(parent, alias) if limit is not None and parent.sortClause else None
    if limit is not None and parent.sortClause and order is None:
        limit = None
    return Need(predictions, alias, pushed, order, limit)


# Who reads the prediction.


def _reads(whole: Any, item: Any, added: frozenset[str], alias: str) -> bool:
    """Whether anything in the statement but the hole itself may see the added columns."""
    rows = {alias, *(cte.ctename for cte in walk(whole, item) if isinstance(cte, ast.CommonTableExpr))}
    rows |= {v.alias.aliasname if v.alias else v.relname for v in walk(whole, item) if isinstance(v, ast.RangeVar)}
    rows |= {join.alias.aliasname for join in walk(whole, item) if isinstance(join, ast.JoinExpr) and join.alias}
    for node in walk(whole, item):
        if isinstance(node, ast.ColumnRef):
            *qualifiers, last = node.fields or ()
            if isinstance(last, ast.A_Star) or last.sval in added or (not qualifiers and last.sval in rows):
                return True
        elif isinstance(node, ast.JoinExpr) and (node.isNatural or any(name.sval in added for name in node.usingClause or ())):
            return True
    return False


# What can be applied early.


def _alone(select: Any, item: Any) -> bool:
    if not isinstance(select, ast.SelectStmt) or select.op != SetOperation.SETOP_NONE:
        return False
    return len(select.fromClause or ()) == 1 and (select.fromClause or ())[0] is item


def _conjuncts(condition: Any) -> Iterator[Any]:
    if isinstance(condition, ast.BoolExpr) and condition.boolop == BoolExprType.AND_EXPR:
        for part in condition.args or ():
            yield from _conjuncts(part)
    elif condition is not None:
        yield condition


def _clause(node: Any, alias: str) -> Clause | None:
    columns = set[str]()
    for part in walk(node):
        if not isinstance(part, _PLAIN):
            return None
        if isinstance(part, ast.ColumnRef):
            names = [getattr(field, "sval", None) for field in part.fields or ()]
            if None in names or len(names) > 2 or (len(names) == 2 and names[0] != alias):
                return None
            columns.add(str(names[-1]))
    return None if (text := _written(node)) is None else Clause(text, frozenset(columns))


def _written(condition: Any) -> str | None:
    """The condition as text, None where that would not be read as the same again."""
    try:
        text = str(RawStream()(condition))
        again: Any = pglast.parse_sql(f"SELECT WHERE {text}")[0].stmt
    except (NotImplementedError, ParseError, ValueError):
        return None
    return text if again.whereClause == condition else None


def _order(select: Any, alias: str) -> Clause | None:
    """The ORDER BY, unless it may name what the select list makes (queries-order.html)."""
    if any(not target.name and not isinstance(target.val, ast.ColumnRef) for target in select.targetList or ()):
        return None  # PostgreSQL names it: id::text is called id
    made = {target.name for target in select.targetList or () if target.name}
    texts, columns = list[str](), set[str]()
    for item in select.sortClause:
        clause = None if isinstance(item.node, ast.A_Const) else _clause(item.node, alias)
        if clause is None or clause.columns & made:
            return None
        texts.append(RawStream()(item))
        columns |= clause.columns
    return Clause(", ".join(texts), frozenset(columns))


def _row_by_row(select: Any) -> bool:
    """Whether each row of FROM gives one row, as far as WHERE lets it through."""
    clauses = (select.groupClause, select.havingClause, select.windowClause, select.distinctClause, select.lockingClause)
    targets = (target.val for target in select.targetList or ())
    plain = (isinstance(part, (*_PLAIN, ast.A_Star)) for target in targets for part in walk(target))
    return not any(clauses) and select.limitOption != LimitOption.LIMIT_OPTION_WITH_TIES and all(plain)


def _limit(select: Any, around: _Around) -> int | None:
    """How many rows are asked for: by this SELECT, or where it sets no limit by the one around it that only passes its rows on."""
    if select.limitCount is None and select.limitOffset is None and not select.sortClause:
        item, outer = around.items.get(id(select), (None, None))
        passed = item is not None and _alone(outer, item) and _row_by_row(outer) and not outer.whereClause and not outer.sortClause
        return _limit(outer, around) if passed else None
    count = _number_of(select.limitCount, around.parameters)
    offset = 0 if select.limitOffset is None else _number_of(select.limitOffset, around.parameters)
    return None if count is None or offset is None or min(count, offset) < 0 else count + offset


def _number_of(node: Any, parameters: Sequence[int | None]) -> int | None:
    if isinstance(node, ast.ParamRef):
        number = node.number or 0
        return parameters[number - 1] if 0 < number <= len(parameters) else None
    return node.val.ival if isinstance(node, ast.A_Const) and isinstance(node.val, ast.Integer) else None


# The tree.


def _items(node: Any) -> Iterator[tuple[Any, Any]]:
    """Every subquery that is an item of a FROM, with the SELECT that it is an item of (None where it stands in a join)."""
    for select in walk(node):
        if isinstance(select, ast.SelectStmt):
            for item in select.fromClause or ():
                if isinstance(item, ast.RangeSubselect):
                    yield item, select
        elif isinstance(select, ast.JoinExpr):
            for item in (select.larg, select.rarg):
                if isinstance(item, ast.RangeSubselect):
                    yield item, None


def _number(item: Any) -> int | None:
    """The number of the hole that this item is, None if it is none."""
    inside = item.subquery.fromClause if isinstance(item.subquery, ast.SelectStmt) else None
    alias = inside[0].alias if inside and len(inside) == 1 and isinstance(inside[0], ast.RangeSubselect) else None
    name = "" if alias is None else alias.aliasname or ""
    return int(name[len(MARK) :]) if name.startswith(MARK) and name[len(MARK) :].isdigit() else None
