"""UPLOAD MODEL name [OPTIONS (…)] FROM 'file': a model out of a file, as if it had been built."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from thanoproxy.catalog import store
from thanoproxy.catalog.records import ModelRecord
from thanoproxy.sql.clauses import Cursor, InnerQuery, ModelName
from thanoproxy.statements.build_model import RESULT, known_architecture, made, new_name, reserved
from thanoproxy.statements.collected import NO_ROWS, Transfer
from thanoproxy.statements.options import Chosen, Rule, read_options
from thanoproxy.statements.shapes import Collect, Seal
from thanoproxy.wire.messages import Column
from thanoproxy.workers import jobs

__all__ = ["LATER", "RULES", "parse"]

RULES = {
    "architecture": Rule("text"),
    "classes": Rule("texts"),
    "input_size": Rule("int", aliases=("image_size",), least=32, most=2048),
    "overwrite": Rule("bool"),
}
LATER = frozenset[str]()


def parse(cursor: Cursor) -> Collect:
    """Behind UPLOAD."""
    cursor.expect("MODEL")
    name = new_name(cursor, "FROM")
    options = read_options(cursor.options(), RULES, LATER, "UPLOAD MODEL")
    architecture = options.get("architecture")
    if architecture is not None:
        architecture = known_architecture(architecture, options.positions["architecture"])
    cursor.expect("FROM", "Write UPLOAD MODEL name [OPTIONS (…)] FROM 'file'.")
    position = cursor.position
    file = cursor.string("the name of a file in quotes")
    cursor.end("OPTIONS come before FROM.")
    return UploadModel(name, options, architecture, file, position)


class UploadModel(Collect):
    """An UPLOAD MODEL as written."""

    tag = b"UPLOAD MODEL"
    result = RESULT

    def __init__(self, name: ModelName, options: Chosen, architecture: str | None, file: str, position: int) -> None:
        self.name = name
        self.options = options
        self.architecture = architecture
        self.file = file
        self.position = position
        self.inner = InnerQuery(NO_ROWS, position - 1)

    def lookup(self) -> str:
        return store.reserve_model(self.name.name, self.options.get("overwrite", False))

    def open(self, found: Sequence[str | None] | None, inner: Sequence[Column], codec: str, seal: Seal) -> Transfer:
        assert found is not None, "reserve_model gives a row or raises"
        return Uploading(self, *reserved(found), seal)


class Uploading(Transfer):
    """One on its way."""

    kind = "UPLOAD"
    phase = "uploading"

    def __init__(self, statement: UploadModel, owner: str, version: int, seal: Seal) -> None:
        self.position = statement.position
        self.model, self.role, self.version = statement.name.name, owner, version
        self._statement = statement
        self._seal = seal

    def request(self, job: str) -> jobs.Upload:
        options = self._statement.options
        return jobs.Upload(
            job=job,
            file=self._statement.file,
            architecture=self._statement.architecture,
            classes=options.get("classes"),
            input_size=options.get("input_size"),
        )

    def record(self, answer: jobs.Exported | jobs.Built) -> ModelRecord:
        assert isinstance(answer, jobs.Built), "an Upload is answered so"
        return self._seal.sign(
            ModelRecord(
                name=self.model,
                version=self.version,
                owner=self.role,
                architecture=answer.architecture,
                artifact=answer.artifact,
                classes=tuple(answer.classes),
                options=answer.options,
                metrics=dict(answer.metrics),
                images=answer.images,
                size_bytes=answer.size_bytes,
                job=answer.job,
            )
        )

    def summary(self, answer: jobs.Exported | jobs.Built) -> tuple[Any, ...]:
        assert isinstance(answer, jobs.Built), "an Upload is answered so"
        return made(self.model, self.version, answer)
