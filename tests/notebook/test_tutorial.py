"""The cells of the original ThanoSQL tutorial, word for word, through the proxy."""

from __future__ import annotations

from collections.abc import Callable

from tests.notebook.conftest import Notebook

BUILD = """%%thanosql
BUILD MODEL my_image_classifier
USING ConvNeXt_Tiny
OPTIONS (
    image_col='image',
    label_col='label',
    epochs=1
    )
AS
SELECT *
FROM cat_and_dog_train"""

PREDICT = """%%thanosql
PREDICT USING my_image_classifier
AS
SELECT *
FROM cat_and_dog_test"""


def test_the_five_kinds_of_cell(tutorial: str, connect: Callable[[str], Notebook]) -> None:
    """The tables are there already, and the weights for ConvNeXt_Tiny in reach."""
    notebook = connect(tutorial)

    shown = notebook.ok("%%thanosql\nSELECT * FROM cat_and_dog_train LIMIT 5").value
    assert list(shown.columns) == ["image", "label"]
    assert len(shown) == 5

    built = notebook.ok(BUILD)
    assert len(built.value) == 1

    predicted = notebook.ok(PREDICT).value
    assert list(predicted.columns) == ["image", "label", "predicted"]
    assert set(predicted["predicted"]) <= {"cat", "dog"}

    notebook.ok("result = %thanosql PREDICT USING my_image_classifier AS SELECT * FROM cat_and_dog_test")
    assert notebook["result"].equals(predicted)


def test_an_error_of_the_dialect_points_at_its_position(tutorial: str, connect: Callable[[str], Notebook]) -> None:
    cell = connect(tutorial).run("%%thanosql\nPREDICT\nUSING nobody_knows_it\nAS SELECT * FROM cat_and_dog_test")
    error, line, caret = cell.printed.splitlines()[:3]
    assert error.startswith("ERROR:  42704: ")
    assert line == "LINE 2: USING nobody_knows_it"
    assert line[caret.index("^") :] == "nobody_knows_it"
