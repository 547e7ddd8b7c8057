"""`thanoproxy sweep`: delete the files of models that are gone."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime

import uvloop

from thanoproxy.catalog.artifacts import open_store
from thanoproxy.catalog.sweep import sweep
from thanoproxy.commands.flags import config_flag, settings_of, upstream_flags
from thanoproxy.commands.upstream import open_upstream
from thanoproxy.config import Settings

HELP = "delete the files of models that are gone"

HOURS = 24.0
"""Where `artifacts.sweep_after` says that nothing is deleted by itself."""


def arguments(parser: argparse.ArgumentParser) -> None:
    config_flag(parser)
    upstream_flags(parser)
    parser.add_argument("--dry-run", action="store_true", help="only say what would be deleted")


def run(args: argparse.Namespace) -> int:
    uvloop.run(report(settings_of(args), dry_run=args.dry_run))
    return 0


async def report(settings: Settings, *, dry_run: bool) -> None:
    hours = settings.artifacts.sweep_after or HOURS
    async with open_upstream(settings) as (reachable, _):
        url = reachable.upstream.required_url
        found = await sweep(url, open_store(settings.artifacts.url), hours * 3600, dry_run=dry_run)
    for key, since, deleted in found:
        seen = datetime.fromtimestamp(since, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        done = ("would be deleted" if dry_run else "deleted") if deleted else f"kept for {hours:g} hours from then"
        print(f"{key}: not needed since {seen}, {done}")
    print(f"{sum(swept.deleted for swept in found)} of {len(found)} files that no model needs " + ("would be " * dry_run) + "deleted")
