"""`thanoproxy init`: make schema thanosql, or bring it up to date."""

from __future__ import annotations

import argparse

import uvloop

from thanoproxy.catalog.install import LATEST, install
from thanoproxy.commands.flags import config_flag, settings_of, upstream_flags
from thanoproxy.commands.upstream import open_upstream
from thanoproxy.config import Settings

HELP = "make schema thanosql in a database, or bring it up to date"


def arguments(parser: argparse.ArgumentParser) -> None:
    config_flag(parser)
    upstream_flags(parser)


def run(args: argparse.Namespace) -> int:
    uvloop.run(init(settings_of(args)))
    return 0


async def init(settings: Settings) -> None:
    async with open_upstream(settings) as (reachable, _):
        done = await install(reachable.upstream.required_url)
    for migration in done:
        print(f"applied migration {migration.version} ({migration.name})")
    print(f"schema thanosql is at version {LATEST}" + ("" if done else ", nothing to do"))
