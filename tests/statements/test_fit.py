"""FIT MODEL and the options of a training, as text."""

from __future__ import annotations

import pytest

from thanoproxy.errors import InvalidOption, SyntaxProblem
from thanoproxy.statements import recognise
from thanoproxy.statements.build_model import RULES as BUILD_RULES
from thanoproxy.statements.fit_model import RULES, FitModel


def fit(options: str = "") -> FitModel:
    parts = recognise(f'fit Model "New" using old@2 {options} as select 1')
    assert parts is not None
    shape = parts[0].shape
    assert isinstance(shape, FitModel)
    return shape


def test_names_and_query() -> None:
    shape = fit("OPTIONS (overwrite=true)")
    assert (shape.name.name, shape.start.name, shape.start.version, shape.inner.text) == ("New", "old", 2, "select 1")
    lookup = shape.lookup()
    assert "thanosql.reserve_model(E'New'::pg_catalog.text, true)" in lookup
    assert "v.version OPERATOR(pg_catalog.=) 2" in lookup


def test_its_options_are_those_of_build_but_where_a_model_begins() -> None:
    assert set(BUILD_RULES) - set(RULES) == {"pretrained", "weights"}


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("early_stopping=5", 5),
        ("early_stopping=TRUE", 3),
        ("early_stopping=false", None),
        ("early_stopping=NONE", None),
        ("class_weights='Balanced'", "balanced"),
        ("class_weights=NONE", None),
        ("class_weights=[1, 2.5, 1e-3]", (1.0, 2.5, 0.001)),
        ("max_seconds=90", 90.0),
        ("max_seconds=NULL", None),
    ],
)
def test_values(option: str, value: object) -> None:
    assert fit(f"OPTIONS ({option})").options.values == {option.partition("=")[0]: value}


@pytest.mark.parametrize(
    "option", ["early_stopping=0", "early_stopping=1.5", "class_weights=2", "class_weights=[0]", "class_weights=['a']", "max_seconds=-1"]
)
def test_values_that_cannot_be(option: str) -> None:
    with pytest.raises(InvalidOption):
        fit(f"OPTIONS ({option})")


@pytest.mark.parametrize("text", ["FIT", "FIT MODEL a", "FIT MODEL a@2 USING b AS SELECT 1", "FIT MODEL a USING b SELECT 1"])
def test_malformed_it_is_still_ours(text: str) -> None:
    with pytest.raises(SyntaxProblem):
        recognise(text)
