"""`workers.gpu_decode`, as clients find it: the rows, errors and skipped rows that they get without it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import psycopg
import pytest
from PIL import Image
from psycopg import errors

from tests.databases import Database
from tests.engine.test_device_decoding import PHOTOS, damaged, device_decoded
from tests.serving import IMAGES_EACH, paint_images, running_proxy, small_model
from tests.session.asking import Connection, fetched
from thanoproxy.images.jpeg import PlainJpeg

PHOTO = "replace(image, '.png', '.jpg') AS image"
STATEMENTS = [
    f"PREDICT USING colours AS SELECT id, {PHOTO} FROM pictures ORDER BY id",
    f"PREDICT USING colours OPTIONS (on_error='null') AS SELECT id, {PHOTO} FROM pictures UNION SELECT 99, 'gone.jpg' ORDER BY id",
    f"PREDICT USING colours OPTIONS (on_error='null', batch_size=5) "
    f"AS SELECT id, {PHOTO} FROM pictures UNION SELECT 99, 'bad.jpg' ORDER BY id",
    f"PREDICT USING colours OPTIONS (on_error='skip') AS SELECT id, {PHOTO} FROM pictures UNION SELECT -1, 'bad.jpg' ORDER BY id",
    f"SELECT predicted, count(*) FROM (PREDICT USING colours AS SELECT {PHOTO} FROM pictures) t GROUP BY 1 ORDER BY 1",
    f"EVALUATE USING colours AS SELECT {PHOTO}, label FROM pictures",
]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pictures twice, and a JPEG file that is damaged where no header tells it."""
    folder = tmp_path_factory.mktemp("photos")
    paint_images(folder)
    for path in folder.rglob("*.png"):
        with Image.open(path) as picture:
            picture.save(path.with_suffix(".jpg"))
    (folder / "bad.jpg").write_bytes(damaged(PHOTOS[0]).data)
    return folder


@pytest.fixture(scope="module")
def both(images: Path, module_database: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Connection, Connection]]:
    """Through a proxy whose device decodes, and one whose device does not: of one model."""
    artifacts = tmp_path_factory.mktemp("artifacts")
    with ExitStack() as stack:
        connections = []
        for gpu_decode in (True, False):
            workers = {"pool": "inline", "devices": "cpu", "gpu_decode": gpu_decode, "prediction_cache": 0}
            proxy = stack.enter_context(running_proxy(module_database.postgres.url, [images], artifacts, more={"workers": workers}))
            url = proxy.url(module_database)
            if gpu_decode:
                small_model(url)
            connections.append(stack.enter_context(closing(psycopg.connect(url, autocommit=True))))
        yield connections[0], connections[1]


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[PlainJpeg]:
    """What a device has been asked to decode."""
    return device_decoded(monkeypatch)


@pytest.mark.parametrize("statement", STATEMENTS)
def test_rows_are_the_same(both: tuple[Connection, Connection], decoded: list[PlainJpeg], statement: str) -> None:
    there, here = both
    found = fetched(there, statement)
    assert len(decoded) >= 2 * IMAGES_EACH
    decoded.clear()
    assert fetched(here, statement) == found
    assert decoded == []


def test_a_damaged_image_is_the_same_error(both: tuple[Connection, Connection]) -> None:
    said = []
    for connection in both:
        with pytest.raises(errors.DatabaseError) as caught:
            fetched(connection, f"PREDICT USING colours AS SELECT {PHOTO} FROM pictures UNION ALL SELECT 'bad.jpg'")
        said.append((caught.value.sqlstate, caught.value.diag.message_primary, caught.value.diag.message_detail))
    assert said[0] == said[1]
    assert said[0][:2] == ("22P03", 'image "bad.jpg": the JPEG image is damaged')
