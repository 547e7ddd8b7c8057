"""EXPORT MODEL model TO 'file': a model in one file, for another database or another program."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from thanoproxy.catalog import store
from thanoproxy.catalog.records import ModelRecord
from thanoproxy.errors import InsufficientPrivilege
from thanoproxy.sql.clauses import Cursor, InnerQuery, ModelName
from thanoproxy.statements.collected import NO_ROWS, Transfer
from thanoproxy.statements.lookup import undefined, verified
from thanoproxy.statements.shapes import Collect, Seal
from thanoproxy.wire.messages import Column
from thanoproxy.wire.values import INT4, INT8, TEXT
from thanoproxy.workers import jobs

__all__ = ["parse"]


def parse(cursor: Cursor) -> Collect:
    """Behind EXPORT."""
    cursor.expect("MODEL")
    model = cursor.model()
    cursor.expect("TO", "Write EXPORT MODEL model TO 'file.safetensors'.")
    position = cursor.position
    file = cursor.string("the name of a file in quotes")
    cursor.end()
    return ExportModel(model, file, position)


class ExportModel(Collect):
    """An EXPORT MODEL as written."""

    tag = b"EXPORT MODEL"
    result = (
        Column(b"name", TEXT),
        Column(b"version", INT4, type_size=4),
        Column(b"file", TEXT),
        Column(b"size_bytes", INT8, type_size=8),
        Column(b"sha256", TEXT),
    )

    def __init__(self, model: ModelName, file: str, position: int) -> None:
        self.model = model
        self.file = file
        self.position = position
        self.inner = InnerQuery(NO_ROWS, position - 1)

    def lookup(self) -> str:
        return store.own_model(self.model.name, self.model.version)

    def open(self, found: Sequence[str | None] | None, inner: Sequence[Column], codec: str, seal: Seal) -> Transfer:
        if found is None or found[0] is None:
            raise undefined(self.model)
        if found[1] != "t":
            raise InsufficientPrivilege(
                f"must be owner of model {self.model.name}",
                hint="USAGE lets a role use a model; its weights are its owner's.",
                position=self.model.position,
            )
        return Exporting(self, verified(found[0], seal))


class Exporting(Transfer):
    """One on its way."""

    kind = "EXPORT"
    phase = "exporting"

    def __init__(self, statement: ExportModel, model: ModelRecord) -> None:
        self.position = statement.position
        self.model, self.role, self.version = model.name, model.owner, model.version
        self._file = statement.file
        self._artifact = model.artifact

    def request(self, job: str) -> jobs.Export:
        return jobs.Export(job, self._artifact, self._file)

    def record(self, answer: jobs.Exported | jobs.Built) -> None:
        return None

    def summary(self, answer: jobs.Exported | jobs.Built) -> tuple[Any, ...]:
        assert isinstance(answer, jobs.Exported), "an Export is answered so"
        return self.model, self.version, self._file, answer.size_bytes, answer.sha256
