"""What the catalogue answers about the model that a statement names."""

from __future__ import annotations

from thanoproxy.catalog import store
from thanoproxy.catalog.records import ModelRecord
from thanoproxy.errors import UndefinedObject
from thanoproxy.sql.clauses import ModelName
from thanoproxy.statements.shapes import Seal

__all__ = ["undefined", "verified"]


def undefined(model: ModelName) -> UndefinedObject:
    """The error for a model that does not exist, or that the role may not see."""
    return UndefinedObject(f'model "{model}" does not exist', hint="LIST MODEL shows the models you may use.", position=model.position)


def verified(payload: str, seal: Seal) -> ModelRecord:
    """The record that `store.find_model` found.  Raises where its seal is not ours."""
    record = store.read_model(payload)
    seal.verify(record)
    return record
