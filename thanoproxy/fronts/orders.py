"""What crosses the pipes between the parent and a front: lines of JSON.  The first is `Start`, answered by `Ready` or `NotStarted`."""

from __future__ import annotations

from typing import Any

import msgspec

from thanoproxy.workers.attached import Place
from thanoproxy.workers.process import NotStarted

__all__ = ["Answer", "Drain", "Follow", "Order", "Ready", "Reload", "Start"]


class Start(msgspec.Struct, frozen=True):
    """Be front `number` of `fronts`; `listener` is the socket's descriptor, and `folder` has a folder for each front."""

    settings: dict[str, Any]
    number: int
    fronts: int
    listener: int
    folder: str
    places: list[Place]


class Follow(msgspec.Struct, frozen=True, tag="follow"):
    """The workers are there now."""

    places: list[Place]


class Reload(msgspec.Struct, frozen=True, tag="reload"):
    """Read certificates and verifiers again."""


class Drain(msgspec.Struct, frozen=True, tag="drain"):
    """Let transactions end, and go."""


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The front accepts clients."""


Order = Follow | Reload | Drain
Answer = Ready | NotStarted
