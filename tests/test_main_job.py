"""The job this program exists for, on real photos and real pretrained weights, from three different clients."""

from __future__ import annotations

import csv
import subprocess
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import numpy as np
import psycopg
import pytest
from sklearn import metrics as sklearn

from tests.conftest import make_database
from tests.serving import Proxy
from thanoproxy.embedded import EmbeddedPostgres
from thanoproxy.embedded.binaries import shipped_psql

BUILD = (
    "BUILD MODEL pets USING MobileNet_V2 OPTIONS (image_col='image', label_col='label', tune='head', "
    "weights='mobilenet_v2_imagenet.safetensors') AS SELECT * FROM cat_and_dog_train"
)
PREDICT = "PREDICT USING pets AS SELECT * FROM cat_and_dog_test"


def rows_of(test_data: Path, name: str) -> list[tuple[str, str]]:
    with (test_data / "data" / f"{name}.csv").open(newline="") as file:
        return [(row["image"], row["label"]) for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def pets(proxy: Proxy, postgres: EmbeddedPostgres, template: str, test_data: Path) -> Iterator[str]:
    """A URL through the proxy of a database with both tables and the trained model."""
    for database in make_database(postgres, template):
        url = proxy.url(database)
        load_tables(url, test_data)
        with psycopg.connect(url, autocommit=True) as connection:
            (row,) = connection.execute(BUILD).fetchall()
            assert row[:4] == ("pets", 1, ["cat", "dog"], 400)
            assert row[4] >= 0.95
        yield url


def load_tables(url: str, test_data: Path) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for name in ("cat_and_dog_train", "cat_and_dog_test"):
            connection.execute(f"CREATE TABLE {name} (image text, label text)")
            with connection.cursor().copy(f"COPY {name} FROM STDIN") as copy:
                for row in rows_of(test_data, name):
                    copy.write_row(row)


def judge(found: list[tuple[str, ...]], expected: list[tuple[str, str]]) -> None:
    """All rows, in order, untouched, and nearly all predicted right."""
    assert [row[:2] for row in found] == expected
    right = sum(label == predicted for _, label, predicted in found)
    assert right / len(found) >= 0.97


def test_psql(pets: str, test_data: Path) -> None:
    command = [str(shipped_psql()), "--no-psqlrc", "--csv", "-c", PREDICT, pets]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    header, *found = csv.reader(output.splitlines())
    assert header == ["image", "label", "predicted"]
    judge([tuple(row) for row in found], rows_of(test_data, "cat_and_dog_test"))


def test_psycopg(pets: str, test_data: Path) -> None:
    with psycopg.connect(pets) as connection, connection.cursor() as cursor:
        found = cursor.execute(PREDICT).fetchall()
        assert [column.name for column in cursor.description or ()] == ["image", "label", "predicted"]
        judge(found, rows_of(test_data, "cat_and_dog_test"))
        few = cursor.execute(PREDICT + " WHERE label = %s LIMIT %s", ("dog", 20)).fetchall()
        assert [row[1] for row in few] == ["dog"] * 20


async def test_asyncpg(pets: str, test_data: Path) -> None:
    connection = await asyncpg.connect(pets)
    try:
        found = await connection.fetch(PREDICT)
        assert list(found[0].keys()) == ["image", "label", "predicted"]
        judge([tuple(row) for row in found], rows_of(test_data, "cat_and_dog_test"))
        few = await connection.fetch(PREDICT + " WHERE label = $1 LIMIT $2", "cat", 20)
        assert [row["label"] for row in few] == ["cat"] * 20
    finally:
        await connection.close()


def test_evaluate_agrees_with_the_stored_predictions(pets: str) -> None:
    with psycopg.connect(pets, autocommit=True) as connection:
        found = dict(connection.execute("EVALUATE USING pets AS SELECT * FROM cat_and_dog_test").fetchall())
        connection.execute("CREATE TABLE stored AS PREDICT USING pets AS SELECT * FROM cat_and_dog_test")
        stored = connection.execute("SELECT label, predicted FROM stored").fetchall()
        pairs = connection.execute("EVALUATE USING pets OPTIONS (confusion_matrix=true) AS TABLE cat_and_dog_test").fetchall()
    labels, predicted = zip(*stored, strict=True)
    precision, recall, f1, _ = sklearn.precision_recall_fscore_support(labels, predicted, average="macro", zero_division=0)
    assert found["accuracy"] == sklearn.accuracy_score(labels, predicted) >= 0.97
    assert [found[f"macro_{name}"] for name in ("precision", "recall", "f1")] == pytest.approx([precision, recall, f1])
    assert (found["images"], found["null_images"]) == (400, 0)
    assert 0 < found["log_loss"] < 0.15
    assert found["calibration_error"] <= 0.05
    matrix = sklearn.confusion_matrix(labels, predicted, labels=["cat", "dog"])
    assert [count for *_, count in pairs] == list(matrix.ravel())


def test_probabilities_mean_what_they_say(pets: str) -> None:
    with psycopg.connect(pets, autocommit=True) as connection:
        found = connection.execute("PREDICT USING pets OPTIONS (top_k=2, probabilities=true) AS SELECT * FROM cat_and_dog_test").fetchall()
        ((measured,),) = connection.execute("SELECT (metrics ->> 'calibration_error')::float8 FROM thanosql.models").fetchall()
        evaluated = dict(connection.execute("EVALUATE USING pets AS SELECT * FROM cat_and_dog_test").fetchall())
    for _, _, predicted, score, probabilities in found:
        assert sorted(predicted) == ["cat", "dog"]
        assert score[0] >= score[1]
        assert sum(score) == pytest.approx(1.0, abs=1e-6)
        assert probabilities == dict(zip(predicted, score, strict=True))
    confidence = np.array([score[0] for *_, score, _ in found])
    right = np.array([predicted[0] == label for _, label, predicted, _, _ in found])
    bins = np.ceil(confidence * 15)
    expected = sum(abs((confidence - right)[bins == of].sum()) for of in np.unique(bins)) / len(found)
    assert expected <= 0.05
    assert evaluated["calibration_error"] == pytest.approx(expected, rel=0.05)
    of_each = np.array([[probabilities["cat"], probabilities["dog"]] for *_, probabilities in found])
    of_each /= of_each.sum(1, keepdims=True)  # float32 adds up to 1 but for its rounding
    loss = sklearn.log_loss([label for _, label, *_ in found], of_each, labels=["cat", "dog"])
    assert evaluated["log_loss"] == pytest.approx(loss, rel=1e-3)
    assert 0 <= measured <= 0.05


def test_like_pictures_have_like_embeddings(pets: str) -> None:
    """The nearest other photo of most photos is of the same animal."""
    with psycopg.connect(pets, autocommit=True) as connection:
        connection.execute("CREATE EXTENSION vector")
        connection.execute(
            "CREATE TABLE embedded AS SELECT image, label, embedding::vector(1280) AS embedding "
            "FROM (CONVERT USING pets AS SELECT * FROM cat_and_dog_test) t"
        )
        (share,) = connection.execute(
            "SELECT avg((a.label = (SELECT b.label FROM embedded b WHERE b.image <> a.image ORDER BY b.embedding <=> a.embedding LIMIT 1))"
            "::int) FROM embedded a"
        ).fetchone() or (0,)
    assert share > 0.9


def test_the_job_and_its_epochs_are_on_record(pets: str) -> None:
    with psycopg.connect(pets) as connection:
        job = connection.execute("SELECT state, phase, images_done, accuracy FROM thanosql.jobs WHERE model = 'pets'").fetchone()
        assert job is not None
        assert job[:2] == ("done", "done")
        epochs = connection.execute("SELECT epoch, loss FROM thanosql.training_log WHERE model = 'pets' ORDER BY epoch").fetchall()
        assert [epoch for epoch, _ in epochs] == [1, 2, 3]


class TestSeedStatement:
    """The statement of the tutorial, word for word."""

    SEED = (
        "BUILD MODEL my_image_classifier USING ConvNeXt_Tiny OPTIONS (image_col='image', label_col='label', epochs=1) "
        "AS SELECT * FROM cat_and_dog_train"
    )

    def test_without_weights_it_names_each_way_to_supply_them(self, pets: str) -> None:
        with psycopg.connect(pets, autocommit=True) as connection, pytest.raises(psycopg.errors.UndefinedFile) as caught:
            connection.execute(self.SEED)
        hint = caught.value.diag.message_hint or ""
        for way in ("weights=", "--weights-root", "convnext_tiny", "TORCH_HOME", "THANOPROXY_WEIGHTS__DOWNLOAD", "pretrained=false"):
            assert way in hint

    @pytest.mark.slow
    def test_from_scratch_it_trains_on_the_cpu(self, pets: str, test_data: Path) -> None:
        statement = self.SEED.replace("epochs=1", "epochs=1, pretrained=false, input_size=32") + " LIMIT 400"
        with psycopg.connect(pets, autocommit=True) as connection:
            (row,) = connection.execute(statement).fetchall()
            assert row[:2] == ("my_image_classifier", 1)
            assert len(connection.execute("PREDICT USING my_image_classifier AS SELECT * FROM cat_and_dog_test").fetchall()) == 400
