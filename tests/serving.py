"""A proxy that serves while tests run, on a loop and in a thread of its own, as a client would find it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import uvloop
from PIL import Image

from tests.databases import Database
from thanoproxy.config import load
from thanoproxy.server import Server

__all__ = ["Proxy", "paint_images", "running_proxy", "small_model"]

COLOURS = {"blue": (30, 40, 200), "red": (200, 40, 30)}
IMAGES_EACH = 12


class Proxy:
    """Where the proxy listens, and the folders it may read from."""

    def __init__(self, server: Server, loop: asyncio.AbstractEventLoop, images: Path) -> None:
        self.server = server
        self.loop = loop
        self.images = images
        self.host, self.port = server.address

    def url(self, database: Database, role: str = "postgres", password: str | None = None) -> str:
        """A connection URL through the proxy."""
        secret = database.postgres.password if password is None else password
        return f"postgresql://{role}:{secret}@{self.host}:{self.port}/{database.name}"


def paint_images(folder: Path) -> None:
    """Small PNG files of two colours, `red/0.png` and so on: what even a new network can tell apart."""
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for i in range(IMAGES_EACH):
            shade = tuple(max(0, min(255, channel + 5 * i - 25)) for channel in colour)
            Image.new("RGB", (40, 36), shade).save(folder / name / f"{i}.png")


@contextmanager
def running_proxy(
    url: str,
    images: list[Path],
    artifacts: Path,
    *,
    weights: list[Path] | None = None,
    pool: str = "inline",
    more: Mapping[str, Mapping[str, Any]] | None = None,
) -> Iterator[Proxy]:
    """Serve until the block ends; `more` holds other sections of settings."""
    settings = load(
        None,
        {
            "server": {"port": 0},
            "upstream": {"url": url},
            "images": {"roots": images},
            "weights": {"roots": weights or []},
            "artifacts": {"url": artifacts.as_uri()},
            "workers": {"pool": pool},
            **(more or {}),
        },
    )
    loop = uvloop.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="proxy")
    thread.start()
    server = Server(settings)
    try:
        asyncio.run_coroutine_threadsafe(server.start(), loop).result(120)
        yield Proxy(server, loop, images[0])
    finally:
        asyncio.run_coroutine_threadsafe(server.close(), loop).result(60)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)
        loop.close()


def small_model(url: str, name: str = "colours") -> None:
    """Tables `pictures` (image path, label) and a model that tells red from blue, built through the proxy."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE pictures (id int, image text, label text)")
        with connection.cursor().copy("COPY pictures FROM STDIN") as copy:
            for i in range(IMAGES_EACH * len(COLOURS)):
                label = sorted(COLOURS)[i % len(COLOURS)]
                copy.write_row((i, f"{label}/{i // len(COLOURS)}.png", label))
        connection.execute(
            f"BUILD MODEL {name} USING MobileNet_V2 OPTIONS (pretrained=false, input_size=32, epochs=1, augment=false, "
            "validation_split=0) AS SELECT image, label FROM pictures"
        )
