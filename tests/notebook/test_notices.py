"""Progress is written over itself; everything else keeps its line."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from thanoproxy.notebook.notices import PROGRESS, Notices


def notice(text: str, *, routine: str | None = None) -> Any:
    """What psycopg's Diagnostic shows of a NOTICE; PostgreSQL itself cannot be made to send a routine of our choice."""
    return SimpleNamespace(severity="NOTICE", message_primary=text, message_detail=None, message_hint=None, source_function=routine)


def test_progress_is_written_over_itself(capsys: pytest.CaptureFixture[str]) -> None:
    notices = Notices()
    notices(notice("loading 100/200", routine=PROGRESS))
    notices(notice("done", routine=PROGRESS))
    notices(notice("epoch 1"))
    notices.finish()
    assert capsys.readouterr().out == "\rloading 100/200\rdone           \nNOTICE:  epoch 1\n"


def test_a_progress_line_is_ended_once(capsys: pytest.CaptureFixture[str]) -> None:
    notices = Notices()
    notices(notice("half", routine=PROGRESS))
    notices.finish()
    notices.finish()
    assert capsys.readouterr().out == "\rhalf\n"
