from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from thanoproxy.commands.flags import config_flag, fronts_flag, listen_flag, root_flags, sections, split_listen, upstream_flags
from thanoproxy.config import data_directory
from thanoproxy.errors import ConfigurationError


def parse(*words: str) -> dict[str, dict[str, object]]:
    parser = argparse.ArgumentParser()
    config_flag(parser)
    listen_flag(parser)
    fronts_flag(parser)
    upstream_flags(parser)
    root_flags(parser, "image", "weights")
    return sections(vars(parser.parse_args(words)))


def test_flags_become_sections_of_settings() -> None:
    assert parse() == {}
    assert parse("--listen", "[::1]:7", "--upstream", "postgresql://h", "--image-root", "a", "--image-root", "b") == {
        "server": {"host": "::1", "port": 7},
        "upstream": {"url": "postgresql://h"},
        "images": {"roots": (Path("a"), Path("b"))},
    }
    assert parse("--fronts", "3") == {"server": {"fronts": 3}}
    assert parse("--fronts", "3", "--listen", ":7") == {"server": {"host": "127.0.0.1", "port": 7, "fronts": 3}}
    assert parse("--embedded") == {"upstream": {"embedded": data_directory()}}
    assert parse("--embedded", "/x", "--weights-root", "w") == {"upstream": {"embedded": "/x"}, "weights": {"roots": (Path("w"),)}}


@pytest.mark.parametrize(
    ("text", "address"),
    [("0.0.0.0:80", ("0.0.0.0", 80)), (":7432", ("127.0.0.1", 7432)), ("h:0", ("h", 0)), ("[::1]:1", ("::1", 1))],
)
def test_listen(text: str, address: tuple[str, int]) -> None:
    assert split_listen(text) == address


@pytest.mark.parametrize("text", ["", "7432", "h", "h:", "h:x", "h:65536", "h:-1", "::1", "::1:80"])
def test_listen_that_is_no_address(text: str) -> None:
    with pytest.raises(ConfigurationError, match="--listen"):
        split_listen(text)
