"""The temporary tables of one statement: rows, and beside each table of rows one of their predictions, joined by the rows' place."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from typing import TYPE_CHECKING
from uuid import uuid4

from thanoproxy.session.decorate import RowStream, warn
from thanoproxy.session.exchange import Bound
from thanoproxy.session.execute import pump
from thanoproxy.session.sheet import Sheet, copy_from, prediction_rows, predictions_table
from thanoproxy.statements.shapes import Added, Decoration
from thanoproxy.wire import messages

if TYPE_CHECKING:
    from thanoproxy.session.attend import Attendant

__all__ = ["Tables"]

_ROWS = b"thanoproxy rows"
_CLOSE_ROWS = messages.close(b"P", _ROWS) + messages.close(b"S", _ROWS)


class Tables:
    """`made` are their names, which go with the transaction at the latest."""

    def __init__(self, attendant: Attendant) -> None:
        self._attendant = attendant
        self.made: list[str] = []

    def new(self) -> str:
        """A name for a table of rows, which the caller is about to make in pg_temp."""
        self.made.append(f"thanoproxy_{uuid4().hex}")
        return self.made[-1]

    async def predict(self, table: str, decoration: Decoration, added: Sequence[Added]) -> RowStream:
        """Put the predictions for the rows of `table`, whose columns are c0, c1, …, into a table beside it.

        Each row that is read has its place and its image only.
        """
        exchange, services = self._attendant.exchange, self._attendant.services
        await exchange.ask(predictions_table(table, added))
        self.made.append(f"{table}_p")
        sql = f"SELECT q.ctid, q.c{decoration.image_column} FROM pg_temp.{table} q"  # noqa: S608
        decoration.image_column = 1
        with closing(Sheet(services.spool)) as sheet:
            stream = RowStream(decoration, services.pool, exchange.upstream, sheet, prediction_rows(decoration))
            await self.read(sql, Bound(), stream)
            await exchange.copy_in(copy_from(f"{table}_p"), sheet.parts())
        warn(decoration, exchange)
        return stream

    async def read(self, sql: str, bound: Bound, stream: RowStream) -> None:
        """See the rows of `sql` through `stream`."""
        exchange = self._attendant.exchange
        parse = messages.parse(messages.Parse(_ROWS, sql.encode(exchange.codec), bound.types))
        await exchange.swallow(_CLOSE_ROWS + parse + messages.bind(messages.Bind(_ROWS, _ROWS, bound.parameters)), b"312", 4)
        await pump(exchange, stream, _ROWS, 0, self._attendant.stop)
        await exchange.swallow(_CLOSE_ROWS, b"3", 2)
