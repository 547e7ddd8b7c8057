"""What the statements `… USING model [OPTIONS (…)] AS query` have in common: their clauses, and a model at work on the query's rows."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence

from thanoproxy.catalog import store
from thanoproxy.catalog.records import ModelRecord
from thanoproxy.errors import DuplicateColumn, FeatureNotSupported, InternalError, ThanoError, WorkerFailure
from thanoproxy.sql.clauses import Cursor, InnerQuery, ModelName
from thanoproxy.statements.columns import columns_of, image_column, names
from thanoproxy.statements.lookup import undefined, verified
from thanoproxy.statements.options import IMAGE_COLUMN, RESULT_COLUMN, Chosen, Rule, read_options
from thanoproxy.statements.shapes import Added, Applied, Decorate, Decoration, Seal
from thanoproxy.wire.messages import Column
from thanoproxy.wire.values import BYTEA, bytea
from thanoproxy.workers import jobs

__all__ = ["BATCH_SIZE", "CACHE", "COLUMN_RULES", "ON_ERROR", "AddColumns", "ColumnsAtWork", "ModelAtWork", "Using", "read_clauses"]

BATCH_SIZE = {"batch_size": Rule("int", least=1, most=65536, auto=True)}
ON_ERROR = {"on_error": Rule("text", choices=("fail", "null", "skip"))}
CACHE = {"cache": Rule("bool")}
COLUMN_RULES = {**IMAGE_COLUMN, **RESULT_COLUMN, **BATCH_SIZE, **ON_ERROR, **CACHE}

_NOT_THE_IMAGE = frozenset({WorkerFailure.sqlstate, InternalError.sqlstate})
"""Failures of a row that say nothing about its image."""


def read_clauses(cursor: Cursor, word: str, rules: Mapping[str, Rule], later: frozenset[str]) -> tuple[ModelName, Chosen, InnerQuery]:
    """Behind `word`."""
    cursor.expect("USING", f"Write {word} USING model AS query.")
    model = cursor.model()
    return model, read_options(cursor.options(), rules, later, word), cursor.query()


class Using:
    """Such a statement as written."""

    def __init__(self, model: ModelName, options: Chosen, inner: InnerQuery) -> None:
        self.model = model
        self.options = options
        self.inner = inner

    def lookup(self) -> str:
        return store.find_model(self.model.name, self.model.version)

    def record(self, found: Sequence[str | None] | None, seal: Seal) -> ModelRecord:
        """The model that `lookup` found.  Raises `UndefinedObject`, or where its seal is not ours."""
        if found is None or found[0] is None:
            raise undefined(self.model)
        return verified(found[0], seal)


class AddColumns(Using, Decorate):
    """One that adds columns: `column`, which is a `noun` and may have another name, and `more` behind it."""

    noun: str

    @property
    @abstractmethod
    def column(self) -> Added:
        """The first, under its usual name."""

    @property
    def more(self) -> tuple[Added, ...]:
        """The columns that options ask for, each with the option's name."""
        return ()

    @property
    def added(self) -> tuple[Added, ...]:
        return (self.column._replace(name=self.options.get("result_col", self.column.name)), *self.more)

    @property
    def skips(self) -> bool:
        return bool(self.options.get("on_error") == "skip")

    def must_keep_rows(self, where: str) -> None:
        if self.skips:
            raise FeatureNotSupported(
                f"option on_error='skip' is not supported with {where}, which needs every row of the query",
                hint="Use on_error='null', or CREATE TABLE … AS, and read the table.",
                position=self.options.position("on_error"),
            )

    def columns(self, inner: Sequence[Column], codec: str) -> tuple[Column, ...]:
        (first, _), *more = self.added
        image_column(inner, codec, self.options)
        taken, rename = names(inner, codec), f"Give the {self.noun} another name with OPTIONS (result_col='…')."
        if first in taken:
            raise DuplicateColumn(f'the query already has a column "{first}"', hint=rename, position=self.options.position("result_col"))
        for name, _ in more:
            if name == first:
                raise DuplicateColumn(f'two added columns are called "{name}"', hint=rename, position=self.options.position("result_col"))
            if name in taken:
                hint = f"Give that one another name in the query: {name} AS …."
                raise DuplicateColumn(f'the query already has a column "{name}"', hint=hint, position=self.options.position(name))
        return columns_of(self.added, codec)


class ModelAtWork(Applied):
    """One model applied to the rows of one execution; the version is the one found at its start.

    What becomes of a row whose image cannot be read, `on_error` says; `became_null` is what 'null' makes of it, in words.
    """

    verb: str
    became_null = "have NULLs"
    vector: jobs.Vector | None = None
    top_k = 1

    def __init__(self, statement: Using, record: ModelRecord, inner: Sequence[Column], codec: str) -> None:
        self.image_column = index = image_column(inner, codec, statement.options)
        self.artifact = record.artifact
        self.title = f"{self.verb} using {record.name}@{record.version} ({record.architecture})"
        self._bytea = inner[index].type_oid == BYTEA
        self._format = inner[index].format
        self._codec = codec
        self._batch_size = statement.options.get("batch_size")
        self._cache: bool = statement.options.get("cache", True)
        self._on_error = statement.options.get("on_error", "fail")
        self._rows = self._unreadable = 0
        self._first = ""

    def image(self, value: bytes | None) -> jobs.Image:
        if value is None:
            return None
        return bytea(value, self._format) if self._bytea else value.decode(self._codec, "replace")

    def request(self, job: str, images: list[jobs.Image], *, bulk: bool, most: int) -> jobs.Predict:
        return jobs.Predict(
            job,
            self.artifact,
            images,
            top_k=self.top_k,
            batch_size=self._batch_size,
            bulk=bulk,
            vector=self.vector,
            cache=self._cache,
            most=most,
        )

    def is_readable(self, reply: jobs.Predicted, index: int) -> bool:
        """Whether the image of the next row could be read, or is NULL.  Raises the row's failure if `on_error` does not let it pass."""
        self._rows += 1
        failure = reply.failures.get(index)
        if failure is None:
            return True
        if self._on_error == "fail" or failure.sqlstate in _NOT_THE_IMAGE:
            raise ThanoError.from_fields({field: getattr(failure, field) for field in failure.__struct_fields__})
        self._unreadable += 1
        self._first = self._first or f"row {self._rows}: {failure.message}"
        return False

    def warning(self) -> str | None:
        if not self._unreadable:
            return None
        became = "are left out" if self._on_error == "skip" else self.became_null
        return f"{self._unreadable} of {self._rows} images could not be read, and their rows {became}; the first is that of {self._first}"


class ColumnsAtWork(ModelAtWork, Decoration):
    """One that adds columns."""

    def __init__(self, statement: AddColumns, record: ModelRecord, inner: Sequence[Column], codec: str) -> None:
        super().__init__(statement, record, inner, codec)
        self.nulls: tuple[None, ...] = (None,) * len(statement.added)

    @abstractmethod
    def values(self, reply: jobs.Predicted, index: int) -> tuple[bytes | None, ...]:
        """The added fields of a row whose image could be read, or is NULL."""

    def fields(self, reply: jobs.Predicted, index: int) -> tuple[bytes | None, ...] | None:
        if self.is_readable(reply, index):
            return self.values(reply, index)
        if self._on_error == "null":
            return self.nulls
        self.left_out += 1
        return None
