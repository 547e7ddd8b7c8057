"""The architectures a user may name after USING.

To add one: describe it in its family's file (a subclass of `thanoproxy.models.architecture.Architecture`) and name it here.  This
module imports no torch, so that a front process can check a name; `Entry.load` does, in a worker.
"""

from __future__ import annotations

import difflib
import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from thanoproxy.errors import UndefinedObject

if TYPE_CHECKING:
    from thanoproxy.models.architecture import Architecture

__all__ = ["ARCHITECTURES", "Entry", "lookup", "names"]

ARCHITECTURES = {
    "ConvNeXt_Tiny": "thanoproxy.models.convnext:TINY",
    "ConvNeXt_Small": "thanoproxy.models.convnext:SMALL",
    "ConvNeXt_Base": "thanoproxy.models.convnext:BASE",
    "ConvNeXt_Large": "thanoproxy.models.convnext:LARGE",
    "EfficientNetV2S": "thanoproxy.models.efficientnet:V2_S",
    "EfficientNetV2M": "thanoproxy.models.efficientnet:V2_M",
    "MobileNet_V2": "thanoproxy.models.mobilenet:V2",
}


@dataclass(frozen=True)
class Entry:
    """An architecture by its proper name; `target` is `module:attribute`."""

    name: str
    target: str

    def load(self) -> Architecture:
        """The architecture itself.  Imports torch."""
        module, _, attribute = self.target.partition(":")
        architecture: Architecture = getattr(importlib.import_module(module), attribute)
        return architecture


def names() -> list[str]:
    """Every architecture's proper name, sorted."""
    return sorted(ARCHITECTURES)


def lookup(name: str) -> Entry:
    """The architecture called `name` in any case, with underscores or without.  Raises `UndefinedObject` with the list of known ones."""
    for proper, target in ARCHITECTURES.items():
        if _plain(proper) == _plain(name):
            return Entry(proper, target)
    raise UndefinedObject(
        f'architecture "{name}" does not exist', detail="Known architectures: " + ", ".join(names()) + ".", hint=_hint(name)
    )


def _plain(name: str) -> str:
    return name.lower().replace("_", "")  # torchvision writes EfficientNet_V2_S


def _hint(name: str) -> str | None:
    near = difflib.get_close_matches(name.lower(), [known.lower() for known in ARCHITECTURES], n=1)
    if not near:
        return None
    return f"Did you mean {next(known for known in ARCHITECTURES if known.lower() == near[0])}?"
