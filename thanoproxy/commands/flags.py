"""The flags that several commands share, and the settings they stand for."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from thanoproxy.config import Settings, data_directory, load
from thanoproxy.errors import ConfigurationError

__all__ = ["config_flag", "fronts_flag", "listen_flag", "root_flags", "sections", "settings_of", "split_listen", "upstream_flags"]


def config_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", metavar="FILE", type=Path, help="TOML file with settings (default: $THANOPROXY_CONFIG)")


def upstream_flags(parser: argparse.ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--upstream", metavar="URL", help="the PostgreSQL to stand in front of: postgresql://user:password@host:port/database"
    )
    which.add_argument(
        "--embedded", metavar="DIR", nargs="?", const="", help=f"start a PostgreSQL of our own in DIR (default: {data_directory()})"
    )


def listen_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--listen", metavar="HOST:PORT", help="address for clients (default: 127.0.0.1:7432)")


def fronts_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--fronts", metavar="N", type=int, help="processes that share the port and the workers (default: 1)")


def root_flags(parser: argparse.ArgumentParser, *names: str) -> None:
    for name in names:
        parser.add_argument(
            f"--{name}-root",
            metavar="DIR",
            action="append",
            type=Path,
            help=f"folder that {name} files are looked up in; may be repeated",
        )


def settings_of(args: argparse.Namespace, **more: dict[str, Any]) -> Settings:
    """The settings of a command: its flags, then the environment and the file.  Raises `ConfigurationError`."""
    return load(getattr(args, "config", None), {**sections(vars(args)), **more})


def sections(given: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Flags as sections of settings; a flag that was not given leaves its setting to the environment and the file."""
    chosen: dict[str, dict[str, Any]] = {}
    if given.get("listen") is not None:
        host, port = split_listen(given["listen"])
        chosen["server"] = {"host": host, "port": port}
    if given.get("fronts") is not None:
        chosen.setdefault("server", {})["fronts"] = given["fronts"]
    if given.get("upstream") is not None:
        chosen["upstream"] = {"url": given["upstream"]}
    if given.get("embedded") is not None:
        chosen["upstream"] = {"embedded": given["embedded"] or data_directory()}
    for flag, section in (("image_root", "images"), ("weights_root", "weights")):
        if given.get(flag):
            chosen[section] = {"roots": tuple(given[flag])}
    return chosen


def split_listen(text: str) -> tuple[str, int]:
    """HOST:PORT, :PORT or [HOST]:PORT.  Raises `ConfigurationError`."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535 or (":" in host and not host.startswith("[")):
        raise ConfigurationError(f"--listen: {text!r} is not HOST:PORT, e.g. 127.0.0.1:7432")
    return host.strip("[]") or "127.0.0.1", int(port)
