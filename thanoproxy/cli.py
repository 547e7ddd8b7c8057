"""`thanoproxy COMMAND …`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from thanoproxy.commands import COMMANDS
from thanoproxy.errors import ConfigurationError, ThanoError

__all__ = ["main"]

FAILED = 1
WRONG_USAGE = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["psql"]:  # what follows is psql's own, options included
        words = [*words[:1], "--", *words[1:]]
    args = _parser().parse_args(words)
    try:
        return int(COMMANDS[args.command].run(args))
    except ThanoError as error:
        print(f"thanoproxy {args.command}: {error.message}", file=sys.stderr)
        for name, text in (("detail", error.detail), ("hint", error.hint)):
            if text:
                print(f"{name}: {text}", file=sys.stderr)
        return WRONG_USAGE if isinstance(error, ConfigurationError) else FAILED
    except BrokenPipeError:  # e.g. `thanoproxy check | head -1`
        sys.stderr.close()
        return FAILED
    except KeyboardInterrupt:
        return FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="thanoproxy", description="Run BUILD MODEL and PREDICT USING in front of a PostgreSQL.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"thanoproxy {_version()}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        command.arguments(commands.add_parser(name, help=command.HELP, description=command.HELP, allow_abbrev=False))
    return parser


def _version() -> str:
    try:
        return version("thanoproxy")
    except PackageNotFoundError:
        return "(not installed)"


if __name__ == "__main__":
    sys.exit(main())
