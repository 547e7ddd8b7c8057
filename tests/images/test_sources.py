"""Where images come from: the row itself, and files below the roots; nothing else, and no word about anything else."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import pytest

from thanoproxy.errors import FeatureNotSupported, FileUnavailable, InvalidImage
from thanoproxy.images import SOURCES, open_sources
from thanoproxy.images.beneath import NotBeneath, Roots
from thanoproxy.images.source import MAX_BYTES, shown


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with two files, beside a secret."""
    (tmp_path / "root" / "cats").mkdir(parents=True)
    (tmp_path / "root" / "top.png").write_bytes(b"top")
    (tmp_path / "root" / "cats" / "1.png").write_bytes(b"cat")
    (tmp_path / "secret.png").write_bytes(b"secret")
    return tmp_path / "root"


def read(root: Path, image: str | bytes) -> bytes:
    return open_sources([str(root)]).read(image)


@pytest.mark.parametrize("name", ["top.png", "cats/1.png", "./cats//1.png", "cats/../top.png", "cats/../cats/./1.png"])
def test_a_relative_path_is_looked_up_below_the_root(root: Path, name: str) -> None:
    assert read(root, name) in (b"top", b"cat")


def test_a_file_that_is_written_anew_has_another_identity(root: Path) -> None:
    sources = open_sources([str(root)])
    before = sources.identity("top.png")
    assert before == sources.identity("./top.png")
    os.utime(root / "top.png", ns=(1, 1))
    assert sources.identity("top.png") not in (None, before)
    assert sources.identity("../secret.png") is None
    assert sources.identity(b"the image itself") == ""


def test_an_absolute_path_and_a_file_url_are_good_below_the_root(root: Path) -> None:
    assert read(root, str(root / "cats" / "1.png")) == b"cat"
    assert read(root, f"file://{root}/cats/1.png") == b"cat"


def test_roots_are_tried_in_turn(root: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "top.png").write_bytes(b"other top")
    (other / "more.png").write_bytes(b"more")
    sources = open_sources([str(root), str(tmp_path / "no such folder"), str(other)])
    assert sources.read("top.png") == b"top"
    assert sources.read("more.png") == b"more"
    assert sources.read(str(other / "top.png")) == b"other top"


def test_a_root_may_itself_be_a_link_and_is_known_by_both_names(root: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(root)
    assert read(tmp_path / "link", "top.png") == b"top"
    assert read(tmp_path / "link", str(tmp_path / "link" / "top.png")) == b"top"
    assert read(tmp_path / "link", str(root / "top.png")) == b"top"


def test_links_that_stay_inside_are_followed(root: Path) -> None:
    (root / "alias").symlink_to("cats")
    (root / "cats" / "up.png").symlink_to("../top.png")
    assert read(root, "alias/1.png") == b"cat"
    assert read(root, "alias/up.png") == b"top"


OUTSIDE = [
    "../secret.png",
    "cats/../../secret.png",
    "{tmp}/secret.png",
    "{root}/../secret.png",
    "file://{tmp}/secret.png",
    "/etc/passwd",
]
MISSING = [
    "nothing.png",
    "cats/2.png",
    "top.png/",
    "top.png/x",
    "",
    ".",
    "cats",
    "../root2/x",
    "/no/such/file",
    "a\0b",
    "x" * 300,
    "\udcff",
]


@pytest.mark.parametrize("name", OUTSIDE + MISSING)
def test_missing_and_outside_are_one_error_that_names_the_value_alone(root: Path, tmp_path: Path, name: str) -> None:
    value = name.format(tmp=tmp_path, root=root)
    with pytest.raises(FileUnavailable) as caught:
        read(root, value)
    assert caught.value.message == f"image file {shown(value)} is not available"
    assert caught.value.detail is None
    with pytest.raises(FileUnavailable) as missing:
        read(root, "missing.png")
    assert caught.value.hint == missing.value.hint


@pytest.mark.parametrize("target", ["/etc/hostname", "../secret.png", "{tmp}/secret.png", "loop.png"])
def test_links_out_of_the_root_are_as_good_as_missing(root: Path, tmp_path: Path, target: str) -> None:
    (root / "loop.png").symlink_to(target.format(tmp=tmp_path))
    (root / "out").symlink_to("..")
    with pytest.raises(FileUnavailable):
        read(root, "loop.png")
    with pytest.raises(FileUnavailable):
        read(root, "out/secret.png")


def test_only_regular_files_are_opened_and_a_pipe_does_not_hang(root: Path) -> None:
    os.mkfifo(root / "pipe.png")
    with pytest.raises(FileUnavailable):
        read(root, "pipe.png")
    with pytest.raises(FileUnavailable):
        open_sources(["/dev"]).read("null")


def test_the_folder_a_name_was_walked_through_does_not_leak(root: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for name in ("cats/1.png", "cats/../top.png", "cats/2.png", "../x", "cats/../../x"):
        try:
            read(root, name)
        except FileUnavailable:
            continue
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_new_file_has_a_folder_below_the_root(root: Path, tmp_path: Path) -> None:
    (root / "out").symlink_to("..")
    (root / "alias").symlink_to("cats")
    for name, folder in [("a", "."), ("cats/a", "cats"), ("cats/../a", "."), (f"{root}/a", "."), ("alias/a", "cats")]:
        entered, last = Roots([str(root)]).enter(name)
        try:
            assert (last, os.fstat(entered).st_ino) == ("a", (root / folder).stat().st_ino)
        finally:
            os.close(entered)
    for name in ("", ".", "..", "a/", "../a", "out/a", "cats/../../a", "top.png/a", "no/a", "/a", f"{tmp_path}/a", "cats/..", "a\0b"):
        with pytest.raises(NotBeneath):
            Roots([str(root)]).enter(name)


def test_without_roots_the_hint_says_how_to_name_one() -> None:
    with pytest.raises(FileUnavailable) as caught:
        open_sources([]).read("top.png")
    assert "--image-root" in str(caught.value.hint)


def test_bytes_are_the_image_itself(root: Path) -> None:
    assert read(root, b"\x89PNG") == b"\x89PNG"


@pytest.mark.parametrize(
    "url",
    [
        "data:image/png;base64," + base64.b64encode(b"pixels?").decode(),
        "DATA:;base64,cGl4\nZWxz Pw==",
        "data:image/png;base64,cGl4ZWxzPw%3D%3D",
        "data:,pixels%3F",
    ],
)
def test_a_data_url_carries_its_bytes(root: Path, url: str) -> None:
    assert read(root, url) == b"pixels?"


@pytest.mark.parametrize("url", ["data:image/png;base64", "data:;base64,!!!", "data:;base64,abc"])
def test_a_damaged_data_url_is_an_invalid_image(root: Path, url: str) -> None:
    with pytest.raises(InvalidImage):
        read(root, url)


@pytest.mark.parametrize("image", [b"", "empty.png", "data:,"])
def test_nothing_is_no_image(root: Path, image: str | bytes) -> None:
    (root / "empty.png").touch()
    with pytest.raises(InvalidImage, match="is empty"):
        read(root, image)


def test_files_beyond_the_limit_are_refused_unread(root: Path) -> None:
    with open(root / "large.png", "wb") as file:
        file.truncate(MAX_BYTES * 1000)
    with pytest.raises(InvalidImage, match="larger than 64 MB"):
        read(root, "large.png")


@pytest.mark.parametrize("url", ["https://example.com/1.png", "s3://bucket/1.png", "file://host/1.png"])
def test_no_other_url_is_read_unless_it_is_configured(root: Path, url: str) -> None:
    with pytest.raises(FeatureNotSupported, match="cannot be read from"):
        read(root, url)


def test_long_values_are_cut_in_messages() -> None:
    assert shown("x" * 1000) == '"' + "x" * 200 + '…"'
    assert shown(b"secret") == "(bytea of 6 bytes)"


def test_every_source_is_in_the_list() -> None:
    folder = Path(SOURCES[0].__module__.replace(".", "/")).parent
    assert {source.__module__.rpartition(".")[2] for source in SOURCES} <= {path.stem for path in Path(folder).glob("*.py")}
