"""BUILD MODEL name USING architecture [OPTIONS (…)] AS query: train a classifier on the rows of the query."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from thanoproxy.catalog import store
from thanoproxy.catalog.records import ModelRecord
from thanoproxy.errors import DataError, FeatureNotSupported, NoData, NullNotAllowed, ThanoError
from thanoproxy.models import registry
from thanoproxy.sql.clauses import Cursor, InnerQuery, ModelName
from thanoproxy.statements.collected import Training
from thanoproxy.statements.columns import image_column, label_column
from thanoproxy.statements.options import IMAGE_COLUMN, LABEL_COLUMN, Chosen, Rule, read_options
from thanoproxy.statements.shapes import Collect, Seal
from thanoproxy.wire.messages import Column
from thanoproxy.wire.values import BYTEA, FLOAT8, INT4, INT8, TEXT, TEXT_ARRAY, bytea
from thanoproxy.workers import jobs

__all__ = [
    "LATER",
    "RESULT",
    "RULES",
    "Collecting",
    "ModelTraining",
    "known_architecture",
    "made",
    "new_name",
    "parse",
    "read_name",
    "reserved",
]

RULES = {
    **IMAGE_COLUMN,
    **LABEL_COLUMN,
    "epochs": Rule("int", aliases=("max_epochs",), least=1, most=10_000),
    "batch_size": Rule("int", least=1, most=65536, auto=True),
    "learning_rate": Rule("float", least=0, above=True, most=100),
    "input_size": Rule("int", aliases=("image_size",), least=32, most=2048),
    "color": Rule("text", choices=("RGB", "GRAY")),
    "overwrite": Rule("bool"),
    "pretrained": Rule("bool"),
    "weights": Rule("text"),
    "tune": Rule("text", choices=("auto", "full", "head")),
    "seed": Rule("int", least=0, most=2**31 - 1),
    "augment": Rule("bool"),
    "validation_split": Rule("float", least=0, most=0.9),
    "early_stopping": Rule("int", least=1, most=10_000, none=True, yes=3),
    "class_weights": Rule("floats", least=0, above=True, most=1e6, choices=("balanced",), none=True),
    "max_seconds": Rule("float", least=0, above=True, most=1e9, none=True),
}
LATER: frozenset[str] = frozenset()
RESULT = (
    Column(b"name", TEXT),
    Column(b"version", INT4, type_size=4),
    Column(b"classes", TEXT_ARRAY),
    Column(b"images", INT8, type_size=8),
    Column(b"validation_accuracy", FLOAT8, type_size=8),
    Column(b"seconds", FLOAT8, type_size=8),
)
_TRAINING = frozenset(jobs.TrainOptions.__struct_fields__)


def parse(cursor: Cursor) -> Collect:
    """Behind BUILD."""
    name = read_name(cursor, "Write BUILD MODEL name USING architecture AS query.")
    position = cursor.position
    architecture = cursor.identifier("the name of an architecture, such as ConvNeXt_Tiny", fold=False)
    known = known_architecture(architecture, position)
    options = read_options(cursor.options(), RULES, LATER, "BUILD MODEL")
    if options.get("weights") is not None and options.get("pretrained") is False:
        raise FeatureNotSupported('options "weights" and "pretrained=false" exclude each other', position=options.position("weights"))
    return BuildModel(name, known, options, cursor.query())


def read_name(cursor: Cursor, hint: str) -> ModelName:
    """MODEL name USING."""
    cursor.expect("MODEL", hint)
    name = new_name(cursor, "USING")
    cursor.expect("USING", hint)
    return name


def new_name(cursor: Cursor, behind: str) -> ModelName:
    """The name of a model that is to be made; the word `behind` comes next."""
    name = cursor.model("a name for the model")
    if name.version is not None:
        raise cursor.error(f"{behind}: versions are counted by the database", "OPTIONS (overwrite=true) makes a new version.")
    return name


def known_architecture(name: str, position: int) -> str:
    """Its name as it is registered.  Raises `UndefinedObject` at `position`."""
    try:
        return registry.lookup(name).name
    except ThanoError as problem:
        raise problem.at(position) from None


def reserved(found: Sequence[str | None]) -> tuple[str, int]:
    """The owner and the number of a new version, of a row that begins with what `store.reserve_model` gives."""
    assert found[0] is not None, "a role has a name"
    assert found[1] is not None, "a version is a number"
    return found[0], int(found[1])


def made(model: str, version: int, built: jobs.Built) -> tuple[Any, ...]:
    """The row that answers, as `RESULT` lists its columns."""
    measured = built.metrics.get("validation_accuracy")
    accuracy = None if measured is None else round(measured, 6)  # more digits would be noise of its float32
    return model, version, built.classes, built.images, accuracy, round(built.seconds, 3)


class Collecting(Collect):
    """A statement that makes a version of a model from the rows of its query."""

    result = RESULT

    def __init__(self, name: ModelName, options: Chosen, inner: InnerQuery) -> None:
        self.name = name
        self.options = options
        self.inner = inner

    def open(self, found: Sequence[str | None] | None, inner: Sequence[Column], codec: str, seal: Seal) -> Training:
        assert found is not None, "the lookup gives a row or raises"
        return self.begin(found, inner, codec, seal)

    @abstractmethod
    def begin(self, found: Sequence[str | None], inner: Sequence[Column], codec: str, seal: Seal) -> Training:
        """The same, where the row is there."""


class BuildModel(Collecting):
    """A BUILD MODEL as written."""

    tag = b"SELECT 1"

    def __init__(self, name: ModelName, architecture: str, options: Chosen, inner: InnerQuery) -> None:
        super().__init__(name, options, inner)
        self.architecture = architecture

    def lookup(self) -> str:
        return store.reserve_model(self.name.name, self.options.get("overwrite", False))

    def begin(self, found: Sequence[str | None], inner: Sequence[Column], codec: str, seal: Seal) -> Training:
        return ModelTraining(self, self.architecture, reserved(found), inner, codec, seal)


class ModelTraining(Training):
    """One of these on its way: checks each row as it comes, so that the first bad one ends it before an image is read."""

    kind = "BUILD"

    def __init__(
        self, statement: Collecting, architecture: str, reserved: tuple[str, int], inner: Sequence[Column], codec: str, seal: Seal
    ) -> None:
        image, label = image_column(inner, codec, statement.options), label_column(inner, codec, statement.options)
        self.options = statement.options
        self.architecture = architecture
        self.model = statement.name.name
        self.role, self.version = reserved
        self.indices = (image, label)
        self._bytea = inner[image].type_oid == BYTEA
        self._codec = codec
        self._seal = seal
        self._labels: set[str] = set()
        self._rows = 0
        self._data = hashlib.sha256()

    def take(self, row: int, values: Sequence[bytes | None]) -> tuple[jobs.Image, str]:
        image, label = values
        if label is None:
            raise NullNotAllowed(f"the label of row {row + 1} is NULL", hint="Leave such rows out: … WHERE label IS NOT NULL.", row=row)
        if image is None:
            raise NullNotAllowed(f"the image of row {row + 1} is NULL", hint="Leave such rows out: … WHERE image IS NOT NULL.", row=row)
        text = label.decode(self._codec, "replace")
        self._labels.add(text)
        self._rows += 1
        reference = bytea(image, 0) if self._bytea else image.decode(self._codec, "replace")
        self._hash(reference, text)
        return reference, text

    def _hash(self, *values: bytes | str) -> None:
        """Each value in UTF-8 behind its length: the hash does not depend on the client, and SQL can compute it (docs/sql.md)."""
        for value in values:
            data = value.encode() if isinstance(value, str) else value
            self._data.update(len(data).to_bytes(4, "big"))
            self._data.update(data)

    def request(self, job: str, spool: str) -> jobs.Build:
        if not self._rows:
            raise NoData("the query gave no rows to learn from")
        if len(self._labels) == 1:
            raise DataError(
                f"all {self._rows} rows have the same label, '{next(iter(self._labels))}'",
                hint="A classifier needs images of at least two classes.",
            )
        chosen = {name: value for name, value in self.options.values.items() if name in _TRAINING}
        return jobs.Build(job, self.architecture, spool, jobs.TrainOptions(**chosen))

    def record(self, built: jobs.Built) -> ModelRecord:
        return self._seal.sign(
            ModelRecord(
                name=self.model,
                version=self.version,
                owner=self.role,
                architecture=built.architecture,
                artifact=built.artifact,
                classes=tuple(built.classes),
                options=self.used(built),
                metrics={**built.metrics, "data_sha256": self._data.hexdigest()},
                images=built.images,
                size_bytes=built.size_bytes,
                job=built.job,
            )
        )

    def used(self, built: jobs.Built) -> dict[str, object]:
        """The options of the version, with the values that were used."""
        return built.options

    def summary(self, built: jobs.Built) -> tuple[Any, ...]:
        return made(self.model, self.version, built)
