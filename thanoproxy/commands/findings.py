"""The lines of `thanoproxy check`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Finding", "fail", "note", "ok"]


@dataclass(frozen=True)
class Finding:
    """One line of the report.  A note is nothing that keeps the proxy from serving."""

    verdict: Literal["ok", "FAIL", "note"]
    subject: str
    text: str

    def __str__(self) -> str:
        return f"{self.verdict:4}  {self.subject:10}  {self.text}"


def ok(subject: str, text: str) -> Finding:
    return Finding("ok", subject, text)


def fail(subject: str, text: str) -> Finding:
    return Finding("FAIL", subject, text)


def note(subject: str, text: str) -> Finding:
    return Finding("note", subject, text)
