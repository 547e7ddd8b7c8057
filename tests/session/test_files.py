"""EXPORT MODEL and UPLOAD MODEL through the proxy: files, rights, transactions, and what is refused."""

from __future__ import annotations

import hashlib
import json
import pickle
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import torch
from psycopg import errors
from safetensors import safe_open
from safetensors.torch import save_file

from tests.databases import Database
from tests.rawwire import RawClient, bind, parse
from tests.serving import Proxy, running_proxy
from thanoproxy.models.mobilenet import V2
from thanoproxy.wire.messages import SYNC, describe, execute, query

Connection = psycopg.Connection[tuple[object, ...]]

PREDICT = "PREDICT USING {} AS SELECT id, image FROM pictures ORDER BY id"
TWO = "architecture='mobilenet_v2', classes=['blue', 'red']"


@pytest.fixture(scope="module")
def files(proxy: Proxy) -> Path:
    return proxy.server.settings.files.roots[0]


@pytest.fixture(scope="module")
def exported(url: str, files: Path) -> Path:
    """A file with model `colours`."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("EXPORT MODEL colours TO 'colours.safetensors'")
    return files / "colours.safetensors"


@pytest.fixture(scope="module")
def two() -> dict[str, torch.Tensor]:
    """A state dict as torchvision writes it, of two classes."""
    torch.manual_seed(5)
    return V2.make(2, pretrained=True).state_dict()


@pytest.fixture
def block(connection: Connection) -> Iterator[Connection]:
    """The same in a transaction block that is rolled back in the end."""
    connection.execute("BEGIN")
    yield connection
    connection.execute("ROLLBACK")


def metadata(file: Path) -> dict[str, str]:
    with safe_open(file, "pt") as opened:
        return dict(opened.metadata())


def stored_names(file: Path) -> list[str]:
    with safe_open(file, "pt") as opened:
        return list(opened.keys())


OUTSIDE = ["../up.safetensors", "/etc/up.safetensors", "nowhere/x.safetensors", "out/x.safetensors", "a/../../x.safetensors"]


class TestExport:
    def test_one_row_tells_what_was_written(self, connection: Connection, files: Path) -> None:
        (files / "sub").mkdir(exist_ok=True)
        cursor = connection.execute("EXPORT MODEL colours@1 TO 'sub/one.safetensors'")
        assert [column.name for column in cursor.description or ()] == ["name", "version", "file", "size_bytes", "sha256"]
        data = (files / "sub" / "one.safetensors").read_bytes()
        assert cursor.fetchall() == [("colours", 1, "sub/one.safetensors", len(data), hashlib.sha256(data).hexdigest())]
        assert cursor.statusmessage == "EXPORT MODEL"
        assert stat.S_IMODE((files / "sub" / "one.safetensors").stat().st_mode) == 0o640
        assert [path.name for path in (files / "sub").iterdir()] == ["one.safetensors"]

    def test_any_program_can_read_it(self, exported: Path) -> None:
        manifest = json.loads(metadata(exported)["thanoproxy"])
        assert (manifest["architecture"], manifest["classes"]) == ("MobileNet_V2", ["blue", "red"])
        assert set(stored_names(exported)) == set(V2.make(2, pretrained=True).state_dict())

    def test_a_file_that_is_there_stays_as_it_is(self, connection: Connection, exported: Path) -> None:
        before = exported.read_bytes()
        with pytest.raises(errors.DuplicateFile, match=r'file "colours\.safetensors" already exists') as caught:
            connection.execute("EXPORT MODEL colours TO 'colours.safetensors'")
        assert caught.value.diag.statement_position == "25"
        assert exported.read_bytes() == before

    @pytest.mark.parametrize("name", OUTSIDE)
    def test_nothing_is_written_outside_of_the_roots(self, connection: Connection, files: Path, tmp_path: Path, name: str) -> None:
        if not (files / "out").is_symlink():
            (files / "out").symlink_to(tmp_path)
        with pytest.raises(errors.UndefinedFile, match="is not available"):
            connection.execute(f"EXPORT MODEL colours TO '{name}'")
        assert not list(tmp_path.iterdir())

    def test_a_link_in_the_files_place_is_not_followed(self, connection: Connection, files: Path, tmp_path: Path) -> None:
        (files / "link.safetensors").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(errors.DuplicateFile):
            connection.execute("EXPORT MODEL colours TO 'link.safetensors'")
        assert not list(tmp_path.iterdir())

    def test_only_the_owner_may(self, url: str, proxy: Proxy, module_database: Database) -> None:
        role, direct = module_database.add_role()
        password = direct.split(":")[2].split("@")[0]
        module_database.execute(f"GRANT SELECT ON pictures TO {role}")
        with psycopg.connect(url, autocommit=True) as owner, psycopg.connect(proxy.url(module_database, role, password)) as other:
            other.autocommit = True
            with pytest.raises(errors.UndefinedObject, match='model "colours" does not exist'):
                other.execute("EXPORT MODEL colours TO 'stolen.safetensors'")
            owner.execute(f"GRANT USAGE ON MODEL colours TO {role}")
            assert other.execute("PREDICT USING colours AS SELECT image FROM pictures LIMIT 1").fetchall()
            with pytest.raises(errors.InsufficientPrivilege, match="must be owner of model colours"):
                other.execute("EXPORT MODEL colours TO 'stolen.safetensors'")
            owner.execute(f"REVOKE USAGE ON MODEL colours FROM {role}")

    def test_in_every_protocol(self, url: str, files: Path) -> None:
        with RawClient(url) as raw:
            sent = (parse("EXPORT MODEL colours TO 'extended.safetensors'"), describe(b"S", b""), bind(), execute(b""), SYNC)
            replies = [reply[:1] for reply in raw.talk(*sent)]
            assert replies == ["1", "t", "T", "2", "D", "C", "Z"]
            replies = raw.talk(query(b"SELECT 1; EXPORT MODEL colours TO 'script.safetensors'; SELECT 2"))
            assert [reply[:1] for reply in replies] == ["T", "D", "C", "T", "D", "C", "T", "D", "C", "Z"]
            replies = raw.talk(query(b"SELECT 1; EXPORT MODEL colours TO 'script.safetensors'; SELECT 2"))
            assert [reply[:1] for reply in replies] == ["T", "D", "C", "E", "Z"]
            assert "58P02" in replies[3]
        assert (files / "extended.safetensors").stat().st_size == (files / "script.safetensors").stat().st_size

    def test_also_where_nothing_may_be_written_to_the_database(self, block: Connection) -> None:
        block.execute("SET TRANSACTION READ ONLY")
        assert block.execute("EXPORT MODEL colours TO 'read_only.safetensors'").fetchall()


class TestUpload:
    def test_what_was_exported_predicts_the_same(self, block: Connection, exported: Path) -> None:
        cursor = block.execute("UPLOAD MODEL again FROM 'colours.safetensors'")
        [(name, version, classes, images, accuracy, _)] = cursor.fetchall()
        assert (name, version, classes, images, accuracy) == ("again", 1, ["blue", "red"], 24, None)
        assert cursor.statusmessage == "UPLOAD MODEL"
        assert block.execute(PREDICT.format("again")).fetchall() == block.execute(PREDICT.format("colours")).fetchall()
        # But for rounding: which images share a batch is chance.
        measured = "EVALUATE USING {} AS SELECT image, label FROM pictures"
        again, before = (dict(block.execute(measured.format(name)).fetchall()) for name in ("again", "colours"))
        assert again == pytest.approx(before, rel=1e-5)
        assert block.execute("SELECT class_name, owner, options ->> 'file' FROM thanosql.models WHERE name = 'again'").fetchall() == [
            ("MobileNet_V2", "postgres", "colours.safetensors")
        ]

    def test_it_is_transactional_and_makes_versions(self, connection: Connection, exported: Path) -> None:
        connection.execute("BEGIN")
        connection.execute("UPLOAD MODEL mine FROM 'colours.safetensors'")
        connection.execute("ROLLBACK")
        with pytest.raises(errors.UndefinedObject):
            connection.execute(PREDICT.format("mine"))
        connection.execute("UPLOAD MODEL mine FROM 'colours.safetensors'")
        with pytest.raises(errors.DuplicateObject, match='model "mine" already exists'):
            connection.execute("UPLOAD MODEL mine FROM 'colours.safetensors'")
        cursor = connection.execute("UPLOAD MODEL mine OPTIONS (overwrite=true) FROM 'colours.safetensors'")
        assert [row[1] for row in cursor.fetchall()] == [2]
        connection.execute("SELECT 1; DROP MODEL mine; UPLOAD MODEL mine FROM 'colours.safetensors'; SELECT 2")
        assert connection.execute("SELECT version FROM thanosql.models WHERE name = 'mine'").fetchall() == [(1,)]

    @pytest.mark.parametrize("ending", ["safetensors", "pth"])
    def test_torchvisions_own_weights(self, block: Connection, files: Path, two: dict[str, torch.Tensor], ending: str) -> None:
        file = files / f"two.{ending}"
        if ending == "pth":
            torch.save(two, file)
        else:
            save_file(two, file)
        block.execute(f"UPLOAD MODEL two OPTIONS ({TWO}, input_size=64) FROM '{file}'")
        assert {row[2] for row in block.execute(PREDICT.format("two"))} <= {"blue", "red"}

    def test_another_role_owns_what_it_uploads(self, exported: Path, proxy: Proxy, module_database: Database) -> None:
        role, direct = module_database.add_role()
        with psycopg.connect(proxy.url(module_database, role, direct.split(":")[2].split("@")[0])) as other:
            other.execute("UPLOAD MODEL theirs FROM 'colours.safetensors'")
            assert other.execute("SELECT owner FROM thanosql.models WHERE name = 'theirs'").fetchall() == [(role,)]
            other.rollback()


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return print, ("unpickled",)


class TestRefused:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ("", r"needs OPTIONS \(architecture="),
            ("architecture='MobileNet_V2'", r"needs OPTIONS \(classes="),
            ("architecture='MobileNet_V2', classes=['a', 'b', 'c']", "tells 2 classes apart, and 3 are named"),
            ("architecture='MobileNet_V2', classes=['a', 'a']", "a class has a name twice"),
            ("architecture='ConvNeXt_Tiny', classes=['a', 'b']", "does not fit ConvNeXt_Tiny"),
        ],
    )
    def test_weights_that_are_not_what_the_options_say(
        self, block: Connection, files: Path, two: dict[str, torch.Tensor], options: str, message: str
    ) -> None:
        save_file(two, files / "two.safetensors")
        with pytest.raises(errors.InvalidParameterValue, match=message):
            block.execute(f"UPLOAD MODEL two OPTIONS ({options}) FROM 'two.safetensors'")

    @pytest.mark.parametrize("change", ["missing", "unknown", "shape", "nan"])
    def test_the_first_differences_are_named(self, block: Connection, files: Path, two: dict[str, torch.Tensor], change: str) -> None:
        changed, name = dict(two), "features.0.0.weight"
        if change == "missing":
            del changed[name]
        elif change == "unknown":
            name = "features.99.weight"
            changed[name] = torch.zeros(1)
        else:
            changed[name] = torch.full((1,) if change == "shape" else tuple(two[name].shape), torch.nan)
        save_file(changed, files / "changed.safetensors")
        with pytest.raises(errors.InvalidParameterValue) as caught:
            block.execute(f"UPLOAD MODEL two OPTIONS ({TWO}) FROM 'changed.safetensors'")
        assert name in f"{caught.value.diag.message_detail} {caught.value}"

    def test_a_pickle_runs_nothing(self, block: Connection, files: Path, capfd: pytest.CaptureFixture[str]) -> None:
        (files / "evil.pth").write_bytes(pickle.dumps({"features": Evil()}))
        with pytest.raises(errors.InvalidParameterValue, match="cannot be read"):
            block.execute(f"UPLOAD MODEL evil OPTIONS ({TWO}) FROM 'evil.pth'")
        torch.save({"features": Evil()}, files / "evil2.pth")
        block.execute("ROLLBACK; BEGIN")
        with pytest.raises(errors.InvalidParameterValue, match="cannot be read"):
            block.execute(f"UPLOAD MODEL evil OPTIONS ({TWO}) FROM 'evil2.pth'")
        assert "unpickled" not in capfd.readouterr().out

    def test_an_archive_that_unpacks_to_more_than_is_read(self, block: Connection, files: Path) -> None:
        with zipfile.ZipFile(files / "bomb.pth", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            archive.writestr("a/data.pkl", b"")
        data = bytearray((files / "bomb.pth").read_bytes())
        entry = data.index(b"PK\x01\x02")
        data[entry + 24 : entry + 28] = (0xFFFFFFF0).to_bytes(4, "little")
        second = data[entry : data.index(b"PK\x05\x06")]
        data[entry:entry] = second  # twice almost 4 GB
        end = data.index(b"PK\x05\x06")
        data[end + 8 : end + 12] = (2).to_bytes(2, "little") * 2
        data[end + 12 : end + 16] = (2 * len(second)).to_bytes(4, "little")
        (files / "bomb.pth").write_bytes(data)
        with pytest.raises(errors.InvalidParameterValue, match="larger than 4 GB when it is unpacked"):
            block.execute(f"UPLOAD MODEL bomb OPTIONS ({TWO}) FROM 'bomb.pth'")

    def test_a_damaged_export(self, block: Connection, exported: Path, files: Path) -> None:
        data = bytearray(exported.read_bytes())
        data[-1] ^= 1
        (files / "damaged.safetensors").write_bytes(data)
        with pytest.raises(errors.InvalidParameterValue, match="is damaged"):
            block.execute("UPLOAD MODEL damaged FROM 'damaged.safetensors'")

    @pytest.mark.parametrize(
        "change",
        [
            {"architecture": "ResNet"},
            {"classes": ["only"]},
            {"classes": ["blue", "r\0d"]},
            {"preprocessing": {}},
            {"preprocessing": {"resize": 10**9, "crop": 32}},
            {"preprocessing": {"resize": 32, "crop": 64}},
            {"preprocessing": {"resize": 32, "crop": 32, "std": [0, 1, 1]}},
            {"format": 2},
            {"temperature": 0},
        ],
    )
    def test_a_manifest_that_makes_no_sense(self, block: Connection, exported: Path, files: Path, change: dict[str, object]) -> None:
        with safe_open(exported, "pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in stored_names(exported)}
        stored = metadata(exported)
        text = json.dumps({**json.loads(stored["thanoproxy"]), **change})
        stored |= {"thanoproxy": text, "artifact": hashlib.sha256(text.encode()).hexdigest()}
        save_file(tensors, files / "strange.safetensors", stored)
        written = (files / "strange.safetensors").read_bytes()
        data = hashlib.sha256(written[8 + int.from_bytes(written[:8], "little") :]).hexdigest()
        save_file(tensors, files / "strange.safetensors", {**stored, "data_sha256": data})
        with pytest.raises((errors.InvalidParameterValue, errors.UndefinedObject)):
            block.execute("UPLOAD MODEL strange FROM 'strange.safetensors'")

    @pytest.mark.parametrize("name", ["../x.pth", "/etc/passwd.pth", "nothing.safetensors", "."])
    def test_files_that_are_not_there_or_elsewhere(self, block: Connection, name: str) -> None:
        with pytest.raises((errors.UndefinedFile, errors.InvalidParameterValue)):
            block.execute(f"UPLOAD MODEL x OPTIONS ({TWO}) FROM '{name}'")

    def test_the_session_goes_on(self, connection: Connection) -> None:
        with pytest.raises(errors.UndefinedFile) as caught:
            connection.execute("SELECT 1; UPLOAD MODEL x FROM 'nothing.safetensors'; CREATE TABLE never (i int)")
        assert caught.value.diag.statement_position is not None
        assert connection.execute("SELECT to_regclass('never')").fetchone() == (None,)


def test_without_a_folder_the_hint_names_the_setting(database: Database, image_root: Path, tmp_path: Path) -> None:
    with running_proxy(database.url, [image_root], tmp_path) as bare, psycopg.connect(bare.url(database), autocommit=True) as connection:
        with pytest.raises(errors.FeatureNotSupported) as caught:
            connection.execute("UPLOAD MODEL x FROM 'x.safetensors'")
        assert "files.roots" in str(caught.value.diag.message_hint)
