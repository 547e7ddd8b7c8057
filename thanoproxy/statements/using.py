"""What the statements `… USING model [OPTIONS (…)] AS query` have in common: their clauses, and a model at work on the query's rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from thanoproxy.catalog import store
from thanoproxy.catalog.records import ModelRecord
from thanoproxy.errors import DuplicateColumn, ThanoError, UndefinedObject
from thanoproxy.sql.clauses import Cursor, InnerQuery, ModelName
from thanoproxy.statements.columns import image_column, names
from thanoproxy.statements.options import IMAGE_COLUMN, RESULT_COLUMN, Chosen, Rule, read_options
from thanoproxy.statements.shapes import Added, Applied, Decorate, Seal
from thanoproxy.wire.messages import Column
from thanoproxy.wire.values import BYTEA, bytea
from thanoproxy.workers import jobs

__all__ = ["BATCH_SIZE", "COLUMN_RULES", "AddColumn", "ModelAtWork", "Using", "check_row", "read_clauses"]

BATCH_SIZE = {"batch_size": Rule("int", least=1, most=65536, auto=True)}
COLUMN_RULES = {**IMAGE_COLUMN, **RESULT_COLUMN, **BATCH_SIZE}


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
            raise UndefinedObject(
                f'model "{self.model}" does not exist',
                hint="LIST MODEL shows the models you may use.",
                position=self.model.position,
            )
        record = store.read_model(found[0])
        seal.verify(record)
        return record


class AddColumn(Using, Decorate):
    """One that adds a single column: `column`, which is a `noun` and may have another name."""

    noun: str
    column: Added

    @property
    def added(self) -> tuple[Added, ...]:
        return (self.column._replace(name=self.options.get("result_col", self.column.name)),)

    def columns(self, inner: Sequence[Column], codec: str) -> tuple[Column, ...]:
        ((name, type_oid),) = self.added
        image_column(inner, codec, self.options)
        if name in names(inner, codec):
            raise DuplicateColumn(
                f'the query already has a column "{name}"',
                hint=f"Give the {self.noun} another name with OPTIONS (result_col='…').",
                position=self.options.position("result_col"),
            )
        return (Column(name.encode(codec, "replace"), type_oid),)


class ModelAtWork(Applied):
    """One model applied to the rows of one execution; the version is the one found at its start."""

    verb: str
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

    def image(self, value: bytes | None) -> jobs.Image:
        if value is None:
            return None
        return bytea(value, self._format) if self._bytea else value.decode(self._codec, "replace")

    def request(self, job: str, images: list[jobs.Image], *, bulk: bool) -> jobs.Predict:
        return jobs.Predict(job, self.artifact, images, top_k=self.top_k, batch_size=self._batch_size, bulk=bulk, vector=self.vector)


def check_row(reply: jobs.Predicted, index: int) -> None:
    """Raise the failure of the batch's row `index`, if it has one."""
    failure = reply.failures.get(index)
    if failure is not None:
        raise ThanoError.from_fields({field: getattr(failure, field) for field in failure.__struct_fields__})
