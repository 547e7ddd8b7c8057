"""PREDICT USING model [OPTIONS (…)] AS query: every row of the query, with the label the model gives its image."""

from __future__ import annotations

from collections.abc import Sequence

from thanoproxy.catalog import store
from thanoproxy.catalog.records import ModelRecord
from thanoproxy.errors import DuplicateColumn, ThanoError, UndefinedObject
from thanoproxy.sql.clauses import Cursor, InnerQuery, ModelName
from thanoproxy.statements.columns import image_column, names
from thanoproxy.statements.options import IMAGE_COLUMN, RESULT_COLUMN, Chosen, Rule, read_options
from thanoproxy.statements.shapes import Decorate, Decoration, Seal
from thanoproxy.wire.messages import Column
from thanoproxy.wire.values import BYTEA, TEXT, bytea
from thanoproxy.workers import jobs

__all__ = ["LATER", "RULES", "parse"]

RULES = {**IMAGE_COLUMN, **RESULT_COLUMN, "batch_size": Rule("int", least=1, most=65536, auto=True)}
LATER = frozenset({"top_k", "score", "probabilities", "threshold", "on_error", "cache"})


def parse(cursor: Cursor) -> Decorate:
    """Behind PREDICT."""
    cursor.expect("USING", "Write PREDICT USING model AS query.")
    model = cursor.model()
    options = read_options(cursor.options(), RULES, LATER, "PREDICT")
    return Predict(model, options, cursor.query())


class Predict(Decorate):
    """A PREDICT as written."""

    def __init__(self, model: ModelName, options: Chosen, inner: InnerQuery) -> None:
        self.model = model
        self.options = options
        self.inner = inner

    @property
    def names(self) -> tuple[str, ...]:
        return (self.options.get("result_col", "predicted"),)

    def lookup(self) -> str:
        return store.find_model(self.model.name, self.model.version)

    def columns(self, inner: Sequence[Column], codec: str) -> tuple[Column, ...]:
        (name,) = self.names
        image_column(inner, codec, self.options)
        if name in names(inner, codec):
            raise DuplicateColumn(
                f'the query already has a column "{name}"',
                hint="Give the prediction another name with OPTIONS (result_col='…').",
                position=self.options.position("result_col"),
            )
        return (Column(name.encode(codec, "replace"), TEXT),)

    def open(self, found: Sequence[str | None] | None, inner: Sequence[Column], codec: str, seal: Seal) -> Decoration:
        if found is None or found[0] is None:
            raise UndefinedObject(
                f'model "{self.model}" does not exist',
                hint="LIST MODEL shows the models you may use.",
                position=self.model.position,
            )
        record = store.read_model(found[0])
        seal.verify(record)
        return Prediction(record, inner, image_column(inner, codec, self.options), self.options.get("batch_size"), codec)


class Prediction(Decoration):
    """One model applied to the rows of one execution; the version is the one found at its start."""

    def __init__(self, record: ModelRecord, inner: Sequence[Column], index: int, batch_size: int | None, codec: str) -> None:
        self.image_column = index
        self._bytea = inner[index].type_oid == BYTEA
        self._format = inner[index].format
        self._codec = codec
        self.artifact = record.artifact
        self.title = f"{record.name}@{record.version} ({record.architecture})"
        self._batch_size = batch_size
        self._labels: list[bytes] = []

    def ready(self, classes: Sequence[str]) -> None:
        self._labels = [label.encode(self._codec, "replace") for label in classes]

    def image(self, value: bytes | None) -> jobs.Image:
        if value is None:
            return None
        return bytea(value, self._format) if self._bytea else value.decode(self._codec, "replace")

    def request(self, job: str, images: list[jobs.Image], *, bulk: bool) -> jobs.Predict:
        return jobs.Predict(job, self.artifact, images, batch_size=self._batch_size, bulk=bulk)

    def added(self, reply: jobs.Predicted, index: int) -> tuple[bytes | None, ...]:
        failure = reply.failures.get(index)
        if failure is not None:
            raise ThanoError.from_fields({field: getattr(failure, field) for field in failure.__struct_fields__})
        best = reply.classes[index]
        return (None if best is None else self._labels[best[0]],)
