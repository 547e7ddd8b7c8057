"""`thanoproxy check`: is everything there that `serve` needs?  One line for each thing; exit 1 if one of them is wrong."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from thanoproxy.catalog.connection import connect, stranger
from thanoproxy.catalog.install import LATEST, installed_version
from thanoproxy.catalog.seal import KEY_FILE, open_seal
from thanoproxy.commands.certificates import examine_certificates
from thanoproxy.commands.findings import Finding, fail, note, ok
from thanoproxy.commands.flags import config_flag, listen_flag, root_flags, settings_of, upstream_flags
from thanoproxy.commands.upstream import folder_problem
from thanoproxy.config import Settings
from thanoproxy.embedded import EmbeddedPostgres
from thanoproxy.errors import ThanoError
from thanoproxy.server import remote_settings

HELP = "say whether everything is there that serve needs"

# Run in a process of its own: torch takes seconds to load, and what it does to a driver is best done elsewhere.
PROBE = """
import json, os, sys, torch
import msgspec
from thanoproxy.engine.device import choose
from thanoproxy.errors import ThanoError
from thanoproxy.images.examine import examine
from thanoproxy.images.settings import RemoteSettings
from thanoproxy.models import registry
devices, roots, threads, remote = json.loads(sys.argv[1])
found = {"torch": torch.__version__, "devices": [], "problems": [], "weights": {}}
found["images"] = examine(msgspec.convert(remote, RemoteSettings))
for name in devices:
    try:
        device = choose(name, threads).device
        found["devices"].append(torch.cuda.get_device_name(device) if device.type == "cuda" else str(device))
    except ThanoError as error:
        found["problems"].append(error.message)
places = [*roots, os.path.join(torch.hub.get_dir(), "checkpoints")]
for name in registry.names():
    files = [os.path.join(place, file) for place in places for file in registry.lookup(name).load().weight_files]
    found["weights"][name] = next((file for file in files if os.path.isfile(file)), None)
print(json.dumps(found))
"""
PROBE_SECONDS = 120.0


def arguments(parser: argparse.ArgumentParser) -> None:
    config_flag(parser)
    listen_flag(parser)
    upstream_flags(parser)
    root_flags(parser, "image", "weights")


def run(args: argparse.Namespace) -> int:
    settings = settings_of(args)
    return uvloop.run(report(settings))


async def report(settings: Settings) -> int:
    """Print what was found; the exit code."""
    findings = []
    async for finding in examine(settings):
        print(finding, flush=True)
        findings.append(finding)
    return 1 if any(finding.verdict == "FAIL" for finding in findings) else 0


async def examine(settings: Settings) -> AsyncIterator[Finding]:
    yield ok("config", f"listens on {settings.server.host} port {settings.server.port}")
    url, finding = upstream_url(settings)
    yield finding
    for found in examine_certificates(settings):
        yield found
    if url is not None:
        async for found in examine_database(url):
            yield found
    for found in examine_folders(settings):
        yield found
    for found in await asyncio.to_thread(examine_workers, settings):
        yield found


def upstream_url(settings: Settings) -> tuple[str | None, Finding]:
    """Where to connect for the check.  An embedded server is looked at, never started."""
    if settings.upstream.embedded is None:
        try:
            address = settings.upstream.address
        except ThanoError as error:
            return None, fail("upstream", error.message)
        place = f"{address.socket_directory}" if address.socket_directory else f"{address.host}"
        return settings.upstream.required_url, ok("upstream", f"{place} port {address.port}")
    try:
        url = EmbeddedPostgres(settings.upstream.embedded).inspect()
    except ThanoError as error:
        return None, fail("upstream", error.message)
    state = "running" if url else "not running now, serve starts it"
    return url, ok("upstream", f"embedded in {settings.upstream.embedded}, {state}")


async def examine_database(url: str) -> AsyncIterator[Finding]:
    try:
        async with connect(url) as connection:
            server = await connection.fetchval("SELECT current_setting('server_version')")
            role = await connection.fetchval("SELECT current_user")
            yield ok("database", f"PostgreSQL {server}, role {role}")
            owner, version = await stranger(connection), await installed_version(connection)
    except ThanoError as error:
        yield fail("database", error.message)
        return
    if owner is not None:
        yield fail("schema", f'thanosql belongs to role "{owner}", who is neither the role of upstream.url nor a superuser')
    elif version != LATEST:
        yield fail("schema", f"thanosql has version {version}, {LATEST} is needed: run `thanoproxy init`")
    else:
        yield ok("schema", f"thanosql version {version}")


def examine_folders(settings: Settings) -> Iterator[Finding]:
    for name, roots in (("images", settings.images.roots), ("weights", settings.weights.roots), ("files", settings.files.roots)):
        for root in roots:
            problem = folder_problem(root)
            yield ok(name, str(root)) if problem is None else fail(name, f"{name}.roots: {root} {problem}")
    if not (settings.images.roots or settings.images.url_hosts or settings.images.private_url_hosts or settings.images.stores):
        yield note("images", "images.roots is empty: only images in bytea columns can be used")
    yield examine_artifacts(settings.artifacts.folder)


def examine_artifacts(folder: Path) -> Finding:
    """Whether models can be kept there; nothing is made by asking."""
    existing = next(step for step in (folder, *folder.parents) if step.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        return fail("artifacts", f"artifacts.url: {existing} cannot be written to")
    if (folder / KEY_FILE).exists():
        try:
            open_seal(folder)
        except ThanoError as error:
            return fail("artifacts", error.message)
    return ok("artifacts", str(folder) if folder.exists() else f"{folder} (made on first use)")


def examine_workers(settings: Settings) -> Iterator[Finding]:
    question: list[Any] = [
        settings.workers.devices.split(","),
        [str(root) for root in settings.weights.roots],
        settings.workers.threads or None,
        msgspec.to_builtins(remote_settings(settings.images)),
    ]
    try:
        asked = subprocess.run(
            [sys.executable, "-c", PROBE, json.dumps(question)], capture_output=True, text=True, check=False, timeout=PROBE_SECONDS
        )
    except subprocess.TimeoutExpired:
        return iter([fail("devices", f"torch did not load within {PROBE_SECONDS:.0f} s")])
    if asked.returncode:
        return iter([fail("devices", "torch cannot be used: " + (asked.stderr.strip().splitlines() or ["it died"])[-1])])
    return describe_workers(json.loads(asked.stdout.splitlines()[-1]))


def describe_workers(found: dict[str, Any]) -> Iterator[Finding]:
    for verdict, text in found["images"]:
        yield Finding(verdict, "images", text)
    for problem in found["problems"]:
        yield fail("devices", f"workers.devices: {problem}")
    for device in found["devices"]:
        yield ok("devices", f"{device} (torch {found['torch']})")
    for name, file in found["weights"].items():
        if file is None:
            yield note("weights", f"{name}: no pretrained weights found; BUILD needs pretrained=false")
        else:
            yield ok("weights", f"{name}: {file}")
