"""FIT MODEL new_name USING model [OPTIONS (…)] AS query: train a model further on the rows of the query; the result is a model as well."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from thanoproxy.catalog import store
from thanoproxy.catalog.records import ModelRecord
from thanoproxy.errors import InvalidOption
from thanoproxy.sql.clauses import Cursor, InnerQuery, ModelName
from thanoproxy.statements.build_model import LATER, Collecting, ModelTraining, read_name, reserved
from thanoproxy.statements.build_model import RULES as BUILD_RULES
from thanoproxy.statements.lookup import undefined, verified
from thanoproxy.statements.options import Chosen, read_options
from thanoproxy.statements.shapes import Collect, Seal
from thanoproxy.wire.messages import Column
from thanoproxy.workers import jobs

__all__ = ["LATER", "RULES", "parse"]

RULES = {name: rule for name, rule in BUILD_RULES.items() if name not in ("pretrained", "weights")}
FIXED = ("input_size", "color")
"""How the model sees: it would have to learn anew to see otherwise."""


def parse(cursor: Cursor) -> Collect:
    """Behind FIT."""
    name = read_name(cursor, "Write FIT MODEL name USING model AS query.")
    model = cursor.model()
    return FitModel(name, model, read_options(cursor.options(), RULES, LATER, "FIT MODEL"), cursor.query())


class FitModel(Collecting):
    """A FIT MODEL as written."""

    tag = b"FIT MODEL"

    def __init__(self, name: ModelName, model: ModelName, options: Chosen, inner: InnerQuery) -> None:
        super().__init__(name, options, inner)
        self.start = model

    def lookup(self) -> str:
        return store.reserve_fit(self.name.name, self.options.get("overwrite", False), self.start.name, self.start.version)

    def begin(self, found: Sequence[str | None], inner: Sequence[Column], codec: str, seal: Seal) -> FitTraining:
        if found[2] is None:
            raise undefined(self.start)
        record = verified(found[2], seal)
        for option in FIXED:
            self._check_fixed(option, record)
        return FitTraining(self, record, reserved(found), inner, codec, seal)

    def _check_fixed(self, option: str, record: ModelRecord) -> None:
        chosen, fixed = self.options.get(option), record.options.get(option)
        if chosen is not None and chosen != fixed:
            raise InvalidOption(
                f'option "{option}" is {fixed} for model "{self.start}" and cannot be changed',
                hint="Leave it out, or BUILD a new model.",
                position=self.options.position(option),
            )


class FitTraining(ModelTraining):
    """A FIT MODEL on its way, from the version that was found at its start."""

    kind = "FIT"

    def __init__(
        self, statement: FitModel, start: ModelRecord, reserved: tuple[str, int], inner: Sequence[Column], codec: str, seal: Seal
    ) -> None:
        super().__init__(statement, start.architecture, reserved, inner, codec, seal)
        self._start = start

    def request(self, job: str, spool: str) -> jobs.Build:
        return msgspec.structs.replace(super().request(job, spool), start=self._start.artifact)

    def used(self, built: jobs.Built) -> dict[str, object]:
        return {"using": f"{self._start.name}@{self._start.version}", **built.options}
