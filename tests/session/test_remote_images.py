"""Images that a table names by URL, through the proxy: read by its workers, over real TLS."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import errors

from tests.databases import Database
from tests.images.site import Site, answer
from tests.serving import COLOURS, IMAGES_EACH, Proxy, running_proxy, small_model
from tests.session.certificates import Authority

Connection = psycopg.Connection[tuple[object, ...]]
NAMES = [f"/{colour}/{number}.png" for colour in sorted(COLOURS) for number in range(IMAGES_EACH)]


@pytest.fixture(scope="module")
def site(authority: Authority, image_root: Path) -> Iterator[Site]:
    """The pictures by https."""
    with Site(pair=authority.sign("pictures", ("localhost",))) as running:
        for name in NAMES:
            running.pages[name] = answer((image_root / name[1:]).read_bytes())
        yield running


@pytest.fixture(scope="module")
def store(image_root: Path) -> Iterator[Site]:
    """The pictures in a bucket."""
    with Site() as running:
        for name in NAMES:
            page = answer((image_root / name[1:]).read_bytes(), ETag='"1"', Last_Modified="Wed, 21 Oct 2015 07:28:00 GMT")
            running.pages["/pictures" + name] = page
        yield running


@pytest.fixture(scope="module")
def remote(
    module_database: Database, site: Site, store: Site, authority: Authority, image_root: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Proxy]:
    bucket = {"url": "s3://pictures", "endpoint": f"http://127.0.0.1:{store.port}", "region": "r", "credentials": "anonymous"}
    images = {
        "roots": [image_root],
        "private_url_hosts": [f"localhost:{site.port}"],
        "ca": authority.file,
        "stores": [bucket],
        "remote_timeout": 20,
    }
    folder = tmp_path_factory.mktemp("artifacts")
    with running_proxy(module_database.url, [image_root], folder, more={"images": images}) as running:
        small_model(running.url(module_database))
        yield running


@pytest.fixture
def connection(remote: Proxy, module_database: Database) -> Iterator[Connection]:
    with psycopg.connect(remote.url(module_database), autocommit=True) as opened:
        yield opened


def test_predictions_are_those_of_the_same_files(connection: Connection, site: Site) -> None:
    """By path, by https and from a bucket."""
    places = ["", f"https://localhost:{site.port}/", "s3://pictures/"]
    query = "PREDICT USING colours OPTIONS (score=true) AS SELECT id, %s || image AS image FROM pictures"
    found = [connection.execute(query, [place]).fetchall() for place in places]
    assert len(found[0]) == len(NAMES)
    assert [[(row[0], *row[2:]) for row in rows] for rows in found[1:]] == [[(row[0], *row[2:]) for row in found[0]]] * 2


def test_build_reads_them_too(connection: Connection, site: Site) -> None:
    connection.execute(
        "BUILD MODEL remote_colours USING MobileNet_V2 OPTIONS (pretrained=false, input_size=32, epochs=1, augment=false, "
        f"validation_split=0) AS SELECT 'https://localhost:{site.port}/' || image AS image, label FROM pictures"
    )
    assert connection.execute("PREDICT USING remote_colours AS SELECT 's3://pictures/red/0.png' AS image").fetchall()


@pytest.mark.parametrize(
    ("image", "error"),
    [
        ("https://localhost:{port}/none.png?sig=geheim", errors.UndefinedFile),
        ("https://localhost:1/red/0.png?sig=geheim", errors.InsufficientPrivilege),
        ("https://169.254.169.254/red/0.png?sig=geheim", errors.InsufficientPrivilege),
        ("http://localhost:{port}/red/0.png?sig=geheim", errors.FeatureNotSupported),
        ("s3://other/red/0.png?sig=geheim", errors.InsufficientPrivilege),
        ("s3://pictures/none.png?sig=geheim", errors.UndefinedFile),
        ("gs://pictures/red/0.png?sig=geheim", errors.InsufficientPrivilege),
        ("https://localhost:{port}/text?sig=geheim", psycopg.DataError),
    ],
)
def test_an_error_names_the_image_and_no_secret(connection: Connection, site: Site, image: str, error: type[psycopg.Error]) -> None:
    site.pages["/text"] = answer(b"no image at all")
    image = image.format(port=site.port)
    with pytest.raises(error) as caught:
        connection.execute("PREDICT USING colours AS SELECT %s AS image", [image])
    assert image.partition("?")[0] in str(caught.value)
    assert "geheim" not in str(caught.value)
    assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
    rows = connection.execute("PREDICT USING colours OPTIONS (on_error='null') AS SELECT %s AS image", [image]).fetchall()
    assert [row[1] for row in rows] == [None]


def test_on_error_leaves_out_what_does_not_come(connection: Connection, site: Site) -> None:
    rows = connection.execute(
        "PREDICT USING colours OPTIONS (on_error='skip') AS SELECT image FROM (VALUES (1, 'https://localhost:1/x'), "
        f"(2, 'https://localhost:{site.port}/red/0.png'), (3, 's3://pictures/none')) v (id, image) ORDER BY id"
    ).fetchall()
    assert [row[0] for row in rows] == [f"https://localhost:{site.port}/red/0.png"]


def test_a_cancelled_statement_abandons_its_reads(connection: Connection, site: Site) -> None:
    gate, lost = threading.Event(), threading.Semaphore(0)

    def slow(sink: socket.socket) -> None:
        try:
            while not gate.wait(0.02):
                sink.sendall(b"HTTP/1.1 103 -\r\n\r\n")
        except OSError:
            lost.release()
            raise

    site.pages["/slow.png"] = slow
    before = len(site.visits)
    threading.Timer(0.4, connection.cancel_safe).start()
    try:
        with pytest.raises(errors.QueryCanceled):
            connection.execute(
                f"PREDICT USING colours AS SELECT 'https://localhost:{site.port}/slow.png?' || g AS image FROM generate_series(1, 8) g"
            )
        assert len(site.visits) > before
        assert all(lost.acquire(timeout=5) for _ in range(len(site.visits) - before))
    finally:
        gate.set()


def test_many_wait_at_the_same_time(connection: Connection, site: Site) -> None:
    """More than there are cores: 48 images that take 0.1 s each would need seconds by twos."""

    def late(name: str) -> Callable[[socket.socket], None]:
        page = site.pages[name]
        assert callable(page)

        def send(sink: socket.socket) -> None:
            time.sleep(0.1)
            page(sink)

        return send

    for number in range(48):
        site.pages[f"/late/{number}.png"] = late(NAMES[number % len(NAMES)])
    query = f"SELECT 'https://localhost:{site.port}/late/' || g || '.png' AS image FROM generate_series(0, 47) g"
    connection.execute(f"PREDICT USING colours AS {query}").fetchall()
    begun = time.monotonic()
    assert len(connection.execute(f"PREDICT USING colours AS {query}").fetchall()) == 48
    assert time.monotonic() - begun < 1.5
