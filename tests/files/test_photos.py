"""Folders of images: which files count, in which order, and that nothing else is touched."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from thanoproxy.errors import FeatureNotSupported, FileUnavailable, InvalidOption, NoData, NotRepresentable
from thanoproxy.files import Wanted, open_table
from thanoproxy.images import open_sources

Row = tuple[str, ...]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


def put(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def wanted(source: str, *roots: Path) -> Wanted:
    return Wanted(source=source, image_roots=tuple(map(str, roots)), file_roots=())


def rows(source: str, *roots: Path) -> list[Row]:
    table = open_table(wanted(source, *roots))
    try:
        return [tuple(line.split("\t")) for line in b"".join(table.parts()).decode().splitlines()]
    finally:
        table.close()


def remark(source: str, *roots: Path) -> str | None:
    table = open_table(wanted(source, *roots))
    for _ in table.parts():
        pass
    table.close()
    return table.remark()


class TestWhichFiles:
    def test_each_image_is_a_row_with_its_folders_name(self, root: Path) -> None:
        put(root, "d/cats/2.jpg", "d/cats/1.PNG", "d/dogs/deep/a.webp", "d/top.gif", "d/b.txt", "elsewhere/x.jpg")
        assert rows("d", root) == [("d/cats/1.PNG", "cats"), ("d/cats/2.jpg", "cats"), ("d/dogs/deep/a.webp", "deep"), ("d/top.gif", r"\N")]

    def test_the_order_is_that_of_the_names_folder_by_folder(self, root: Path) -> None:
        put(root, "b/1.jpg", "b/10.jpg", "b/2.jpg", "a.jpg", "c.jpg", "ä.jpg")
        assert [row[0] for row in rows(".", root)] == ["a.jpg", "b/1.jpg", "b/10.jpg", "b/2.jpg", "c.jpg", "ä.jpg"]

    def test_hidden_files_and_folders_do_not_count(self, root: Path) -> None:
        put(root, ".DS_Store", "._a.jpg", ".thumbs/a.jpg", "a.jpg")
        assert (rows(".", root), remark(".", root)) == ([("a.jpg", r"\N")], None)

    def test_others_are_counted(self, root: Path, tmp_path: Path) -> None:
        put(root, "a.jpg", "b.txt", "c/d", "noending")
        os.mkfifo(root / "fifo.jpg")
        (root / "link.jpg").symlink_to("a.jpg")
        assert [row[0] for row in rows(".", root)] == ["a.jpg"]
        assert remark(".", root) == "left out: 4 files without the name of an image and 1 link"

    def test_a_folder_without_any(self, root: Path) -> None:
        put(root, "b.txt")
        (root / "empty").mkdir()
        for source in (".", "empty"):
            with pytest.raises(NoData, match="holds no images") as caught:
                rows(source, root)
            assert ".jpg" in str(caught.value.hint)

    def test_one_file(self, root: Path) -> None:
        put(root, "d/a.jpg", "d/b.txt")
        assert rows("d/a.jpg", root) == [("d/a.jpg", r"\N")]
        with pytest.raises(InvalidOption, match="no image, CSV or parquet file"):
            rows("d/b.txt", root)

    def test_many(self, root: Path) -> None:
        put(root, *(f"{i % 3}/{i}.jpg" for i in range(5000)))
        assert len(set(rows(".", root))) == 5000


class TestNames:
    @pytest.mark.parametrize(
        "name", ["a b.jpg", "it's.jpg", "größe.jpg", "猫.jpg", "a\\b.jpg", "a\tb\nc.jpg", "-x.jpg", "data:a.jpg", "a%20.jpg"]
    )
    def test_a_path_leads_back_to_its_file(self, root: Path, name: str) -> None:
        put(root, f"{name}.d/{name}", name)
        for row in rows(".", root):
            path = row[0].replace("\\t", "\t").replace("\\n", "\n").replace("\\\\", "\\")
            assert open_sources([str(root)]).read(path) == b"x"

    def test_a_name_that_is_no_utf8(self, root: Path) -> None:
        put(root, "d/a.jpg")
        with open(os.fsencode(root) + b"/d/\xff.jpg", "wb"):
            pass
        with pytest.raises(NotRepresentable, match=r'"d/\\udcff\.jpg" is no UTF-8'):
            rows("d", root)

    @pytest.mark.parametrize("source", ["d", "d/", "./d", "d//", "d/../d", "x/../d", "link"])
    def test_paths_begin_as_the_source_was_written(self, root: Path, source: str) -> None:
        put(root, "d/a.jpg", "x/a.jpg")
        (root / "link").symlink_to("d")
        [(path, _)] = rows(source, root)
        assert path == f"{source.rstrip('/')}/a.jpg"
        assert open_sources([str(root)]).read(path) == b"x"

    def test_an_absolute_name_becomes_relative_to_its_root(self, root: Path) -> None:
        put(root, "d/a.jpg")
        assert rows(f"{root}/d", root) == rows(f"{root}/d/", root) == [("d/a.jpg", r"\N")]
        assert rows(f"{root}/d/a.jpg", root) == [("d/a.jpg", r"\N")]
        assert rows(str(root), root) == rows(f"{root}/", root) == [("d/a.jpg", "d")]

    def test_but_not_where_another_root_has_that_name(self, root: Path, tmp_path: Path) -> None:
        put(root, "d/a.jpg")
        put(tmp_path / "first", "d/a.jpg")
        assert rows(f"{root}/d", tmp_path / "first", root) == [(f"{root}/d/a.jpg", r"\N")]
        assert rows("d", tmp_path / "first", root) == [("d/a.jpg", r"\N")]

    def test_the_first_root_that_has_it(self, root: Path, tmp_path: Path) -> None:
        put(root, "d/a.jpg")
        (tmp_path / "first").mkdir()
        assert rows("d", tmp_path / "first", tmp_path / "missing", root) == [("d/a.jpg", r"\N")]


class TestBelowTheRoots:
    @pytest.mark.parametrize(
        "source", ["..", "../out", "d/../../out", "out", "/etc", "{tmp}/out", "{root}/../out", "nothing", "", "d\0", "a/"]
    )
    def test_what_is_elsewhere_and_what_is_missing_look_the_same(self, root: Path, tmp_path: Path, source: str) -> None:
        put(tmp_path, "out/secret.jpg", "root/d/a.txt", "root/a")
        (root / "out").symlink_to(tmp_path / "out")
        name = source.format(tmp=tmp_path, root=root)
        with pytest.raises(FileUnavailable) as caught:
            rows(name, root)
        assert caught.value.message == f'directory or file "{name}" is not available'.replace("d\0", "")

    def test_links_in_a_folder_are_not_followed(self, root: Path, tmp_path: Path) -> None:
        put(tmp_path, "out/secret.jpg", "root/d/a.jpg")
        (root / "d" / "out").symlink_to(tmp_path / "out")
        (root / "d" / "up").symlink_to("..")
        (root / "d" / "secret.jpg").symlink_to(tmp_path / "out" / "secret.jpg")
        assert rows("d", root) == [("d/a.jpg", r"\N")]
        assert remark("d", root) == "left out: 3 links"

    def test_a_folder_that_becomes_a_link_meanwhile(self, root: Path, tmp_path: Path) -> None:
        put(tmp_path, "out/secret.jpg", "root/a.jpg", "root/b/b.jpg")
        table = open_table(wanted(".", root))  # it has read the names of the root
        (root / "b").rename(root / "c")
        (root / "b").symlink_to(tmp_path / "out")
        with pytest.raises(FileUnavailable, match='"b" is not available'):
            list(table.parts())
        table.close()

    def test_no_descriptor_is_left(self, root: Path) -> None:
        put(root, "a/b/c/1.jpg", "a/b/2.jpg", "a/x.txt")
        before = len(os.listdir("/proc/self/fd"))
        rows("a", root)
        put(root, "none/b/x.txt")
        with pytest.raises(NoData):
            rows("none", root)
        table = open_table(wanted("a", root))
        table.close()
        assert len(os.listdir("/proc/self/fd")) == before

    def test_without_a_root(self) -> None:
        with pytest.raises(FeatureNotSupported) as caught:
            open_table(wanted("d"))
        assert "images.roots" in str(caught.value.hint)
