"""What settings are made of: their sections, and the kinds of lists."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict
from pydantic_settings import NoDecode

__all__ = ["File", "Folder", "Folders", "Names", "Section", "absolute", "listed"]


def _separated(value: object) -> object:
    return [part for part in value.split(os.pathsep) if part] if isinstance(value, str) else value


def absolute(path: Path) -> Path:
    """`path` from the working folder, or from home where it begins with `~`."""
    return path.expanduser().absolute()


def listed(value: object) -> object:
    """What is written in the environment: words with commas between them, or JSON."""
    if not isinstance(value, str):
        return value
    return json.loads(value) if value.lstrip().startswith("[") else [part.strip() for part in value.split(",") if part.strip()]


Folder = Annotated[Path, AfterValidator(absolute)]
File = Folder
Folders = Annotated[tuple[Folder, ...], NoDecode, BeforeValidator(_separated)]
Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(listed)]


class Section(BaseModel):
    """A group of settings; unknown names are refused, so that a typing error does not pass for a default."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)
