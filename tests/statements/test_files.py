"""EXPORT MODEL and UPLOAD MODEL as text: what is wrong, and where."""

from __future__ import annotations

import pytest

from thanoproxy.errors import ThanoError
from thanoproxy.statements import recognise
from thanoproxy.statements.shapes import Collect

GOOD = [
    "export model m to 'f'",
    "EXPORT MODEL \"M m\"@3 TO E'f\\x41' ;",
    "UPLOAD MODEL m FROM 'f'",
    "upload model m options (architecture='convnext_tiny', classes=['a', 'b'], image_size=64, overwrite=true,) from 'f'",
]


@pytest.mark.parametrize("text", GOOD)
def test_understood(text: str) -> None:
    [part] = recognise(text) or []
    assert isinstance(part.shape, Collect)


BAD = [
    ("EXPORT MODEL m", "expected TO", 15),
    ("EXPORT MODEL m TO f", "in quotes", 19),
    ('EXPORT MODEL m TO "f"', "in quotes", 19),
    ("EXPORT MODEL m TO 'f' x", "the end of the statement", 23),
    ("UPLOAD MODEL m", "expected FROM", 15),
    ("UPLOAD MODEL m@2 FROM 'f'", "versions are counted", 18),
    ("UPLOAD MODEL m FROM 'f' OPTIONS (overwrite=true)", "the end of the statement", 25),
    ("UPLOAD MODEL m OPTIONS (classes='a') FROM 'f'", "must be a list of texts", 33),
    ("UPLOAD MODEL m OPTIONS (classes=[1]) FROM 'f'", "must be a list of texts", 33),
    ("UPLOAD MODEL m OPTIONS (architecture='ResNet') FROM 'f'", "does not exist", 38),
    ("UPLOAD MODEL m OPTIONS (epochs=1) FROM 'f'", "unknown option", 25),
]


@pytest.mark.parametrize(("text", "message", "position"), BAD, ids=[case[0] for case in BAD])
def test_mistakes(text: str, message: str, position: int) -> None:
    with pytest.raises(ThanoError) as caught:
        recognise(text)
    assert message in caught.value.message
    assert caught.value.position == position


@pytest.mark.parametrize("text", ["EXPORT models", "UPLOAD TABLE t FROM 'f'", "SELECT upload, model FROM export"])
def test_what_is_postgresqls(text: str) -> None:
    assert recognise(text) is None
