"""Modules from their source, whatever stands compiled beside them."""

from __future__ import annotations

from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

__all__ = ["from_source", "is_compiled"]


def from_source(module: ModuleType) -> ModuleType:
    """The same module once more, in plain Python."""
    name = module.__name__.rpartition(".")[2]
    path = Path(module.__file__ or "").with_name(f"{name}.py")
    spec = spec_from_loader(f"{name}_in_python", SourceFileLoader(f"{name}_in_python", str(path)))
    assert spec is not None, "a loader was given"
    again = module_from_spec(spec)
    assert spec.loader is not None, "a loader was given"
    spec.loader.exec_module(again)
    return again


def is_compiled(module: ModuleType) -> bool:
    """False where there was no C compiler at installation."""
    return not (module.__file__ or "").endswith(".py")
