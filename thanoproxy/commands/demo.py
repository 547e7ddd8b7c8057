"""`thanoproxy demo`: the main job on real images, over the wire, with an ordinary driver.

An embedded PostgreSQL and the proxy are started, the images become two tables of paths, BUILD MODEL learns from one and PREDICT
labels the other.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import shlex
import socket
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import asyncpg
import uvloop

from thanoproxy.commands.flags import config_flag, listen_flag, root_flags, settings_of
from thanoproxy.commands.pictures import Pictures, find_photos, write_digits
from thanoproxy.commands.serve import start, until_stopped, watch
from thanoproxy.commands.upstream import client_url, our_command, prepare, psql_line, require_folders, with_url
from thanoproxy.config import Server, Settings, data_directory
from thanoproxy.embedded import EmbeddedPostgres
from thanoproxy.errors import ThanoError

HELP = "train and predict on handwritten digits, or on your own photos"

SHOWN = 10
DIGITS_BUILD = """BUILD MODEL digits
USING ConvNeXt_Tiny
OPTIONS (image_col='image', label_col='label', overwrite=true,
         pretrained=false, augment=false, input_size=32, epochs=4, batch_size=64)
AS SELECT * FROM digits_train"""
PHOTOS_BUILD = """BUILD MODEL photos
USING ConvNeXt_Tiny
OPTIONS (image_col='image', label_col='label', overwrite=true)
AS SELECT * FROM photos_train"""


class DemoFailed(ThanoError):
    """58000: the proxy answered a statement of the demo with an error."""

    sqlstate = "58000"


def arguments(parser: argparse.ArgumentParser) -> None:
    config_flag(parser)
    listen_flag(parser)
    root_flags(parser, "weights")
    parser.add_argument("--images", metavar="DIR", type=Path, help="your own photos: one sub-folder for each class")
    parser.add_argument(
        "--directory",
        metavar="DIR",
        type=Path,
        help=f"where PostgreSQL, images and models are kept (default: {data_directory() / 'demo'})",
    )
    parser.add_argument("--stay", action="store_true", help="go on serving until Ctrl-C")


def run(args: argparse.Namespace) -> int:
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    directory = args.directory.expanduser().absolute() if args.directory else choose_directory()
    settings = settings_of(args, upstream={"embedded": directory})
    require_folders(settings)
    if args.listen is None:
        settings = free_port(settings)
    uvloop.run(until_stopped(demo(settings, directory, args.images, stay=args.stay)))
    return 0


async def demo(settings: Settings, directory: Path, photos: Path | None, *, stay: bool) -> None:
    from thanoproxy import server as proxy  # here, so that other commands start without it

    began = time.perf_counter()
    name = "digits" if photos is None else "photos"
    if photos is None:
        print("writing handwritten digits as PNG files …", flush=True)
    pictures = await asyncio.to_thread(find_photos, photos) if photos else await asyncio.to_thread(write_digits, directory / "images")
    print(f"{len(pictures.train)} images to learn from, {len(pictures.test)} to predict, below {pictures.root}", flush=True)
    roots = settings.images.model_copy(update={"roots": (pictures.root,)})
    async with EmbeddedPostgres(directory, copy_binaries=True) as postgres:
        settings = with_url(settings, postgres.url).model_copy(update={"images": roots})
        await prepare(settings)
        server = proxy.Server(settings)
        try:
            await start(server)
            url = client_url(settings, postgres, server.address)
            print(f"PostgreSQL and thanoproxy are running; connect with\n  {psql_line(url)}\n", flush=True)
            await session(url, name, DIGITS_BUILD if photos is None else PHOTOS_BUILD, pictures)
            print(f"\n{time.perf_counter() - began:.1f} s in all", flush=True)
            if stay:
                print(f"serving until Ctrl-C; connect with\n  {psql_line(url)}", flush=True)
                await watch(postgres)
        finally:
            await server.close()
    print("To go on, start it again, and connect from another terminal:")
    for line in lines_to_go_on(settings, postgres, pictures.root):
        print(f"  {line}")


def choose_directory() -> Path:
    """A lasting folder of our own; a temporary one, left behind, where we may not make that."""
    directory = data_directory() / "demo"
    existing = next(step for step in (directory, *directory.parents) if step.exists())
    if existing.is_dir() and os.access(existing, os.W_OK | os.X_OK):
        return directory
    temporary = Path(tempfile.mkdtemp(prefix="thanoproxy-"))
    temporary.chmod(0o711)  # new, and to be entered by the user who runs PostgreSQL
    return temporary / "demo"


def free_port(settings: Settings) -> Settings:
    """`settings` with a port that nobody has, in place of one that is taken: the demo need not be where the proxy will be."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.server.host, settings.server.port))
        except OSError:
            return settings.model_copy(update={"server": settings.server.model_copy(update={"port": 0})})
    return settings


def lines_to_go_on(settings: Settings, postgres: EmbeddedPostgres, images: Path) -> Iterator[str]:
    """Commands that serve what the demo has left, and connect to it."""
    server, usual = settings.server, Server()
    serve = f"{our_command()} serve --embedded {shlex.quote(str(postgres.directory))} --image-root {shlex.quote(str(images))}"
    address = server.host, server.port or usual.port
    if address != (usual.host, usual.port):
        serve += f" --listen {address[0]}:{address[1]}"
    yield serve
    yield psql_line(client_url(settings, postgres, address))


async def session(url: str, name: str, build: str, pictures: Pictures) -> None:
    """What a user does.  Raises `DemoFailed` with the proxy's own message and hint."""
    connection = await asyncpg.connect(url)
    connection.add_log_listener(lambda _, notice: print(f"{notice.severity}:  {notice.message}", flush=True))
    try:
        await load(connection, f"{name}_train", pictures.train)
        await load(connection, f"{name}_test", pictures.test)
        print(f"{build};", flush=True)
        began = time.perf_counter()
        summary = await connection.fetch(build)
        print("\n".join(table(summary[:SHOWN])))
        print(f"built in {time.perf_counter() - began:.1f} s\n", flush=True)
        predict = f"PREDICT USING {name}\nAS SELECT * FROM {name}_test"  # noqa: S608
        print(f"{predict};", flush=True)
        began = time.perf_counter()
        rows = await connection.fetch(predict)
        seconds = time.perf_counter() - began
    except asyncpg.PostgresError as error:
        raise DemoFailed(str(error.args[0]), detail=getattr(error, "detail", None), hint=getattr(error, "hint", None)) from error
    finally:
        await connection.close()
    print("\n".join(table(rows[:SHOWN])))
    right = sum(row["label"] == row["predicted"] for row in rows)
    print(f"({len(rows)} rows, {SHOWN} shown) in {seconds:.1f} s, {len(rows) / seconds:.0f} images/s")
    print(f"accuracy {right / len(rows):.4f} ({right} of {len(rows)})", flush=True)


async def load(connection: asyncpg.Connection[asyncpg.Record], name: str, rows: Sequence[tuple[str, str]]) -> None:
    await connection.execute(f"DROP TABLE IF EXISTS {name}; CREATE TABLE {name} (image text, label text)")
    await connection.copy_records_to_table(name, records=rows, columns=["image", "label"])


def table(rows: Sequence[asyncpg.Record]) -> Iterator[str]:
    """Rows as psql shows them."""
    if not rows:
        return
    texts = [list(rows[0].keys()), *([shown(value) for value in row.values()] for row in rows)]
    widths = [max(len(line[column]) for line in texts) for column in range(len(texts[0]))]
    head, *body = ("|".join(f" {text:{width}} " for text, width in zip(line, widths, strict=True)) for line in texts)
    yield head
    yield "+".join("-" * (width + 2) for width in widths)
    yield from body


def shown(value: object) -> str:
    return "{" + ",".join(map(str, value)) + "}" if isinstance(value, list) else str(value)
