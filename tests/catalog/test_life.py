"""What becomes of a model after its BUILD, in the catalogue's SQL: names, owners, versions, privileges, descriptions."""

from __future__ import annotations

import uuid
from collections.abc import Callable

import psycopg
import pytest

from tests.catalog.conftest import Users, build, make_record, names
from tests.databases import Database
from thanoproxy.catalog import store
from thanoproxy.catalog.install import MIGRATIONS
from thanoproxy.catalog.quote import literal
from thanoproxy.catalog.records import ModelRecord
from thanoproxy.catalog.seal import Seal

Connect = Callable[..., psycopg.Connection]
DENIED = psycopg.errors.InsufficientPrivilege
MISSING = psycopg.errors.UndefinedObject
SEAL = Seal(b"k" * 32)


def role_of(connection: psycopg.Connection) -> str:
    return connection.info.user


def text(role: str) -> str:
    return f"{literal(role)}::pg_catalog.text"


def give(name: str, role: str) -> str:
    return store.give_model(name, text(role), False)


def grant(name: str, *roles: str) -> str:
    return store.grant_usage([name], [text(role) for role in roles])


def revoke(name: str, *roles: str) -> str:
    return store.revoke_usage([name], [text(role) for role in roles])


def found(connection: psycopg.Connection, name: str = "pets", version: int | None = None) -> ModelRecord | None:
    row = connection.execute(store.find_model(name, version)).fetchone()
    return None if row is None else store.read_model(row[0])


def build_sealed(connection: psycopg.Connection, name: str = "pets", *, overwrite: bool = False, **changes: object) -> ModelRecord:
    [(owner, version)] = connection.execute(store.reserve_model(name, overwrite)).fetchall()
    record = SEAL.sign(make_record(name=name, owner=owner, version=int(version), **changes))
    connection.execute(store.register_model(record))
    return record


class TestRename:
    def test_the_seal_still_fits(self, users: Users) -> None:
        build_sealed(users.alice)
        users.alice.execute(store.rename_model("pets", "Haus\"tiere'", False))
        record = found(users.alice, "Haus\"tiere'")
        assert record is not None
        assert (record.sealed_name, record.sealed_owner) == ("pets", None)
        SEAL.verify(record)
        assert found(users.alice) is None

    def test_versions_before_and_after_it(self, users: Users) -> None:
        build_sealed(users.alice)
        users.alice.execute(store.rename_model("pets", "animals", False))
        build_sealed(users.alice, "animals", overwrite=True)
        build_sealed(users.alice, "pets")
        for name, version, sealed in (("animals", 1, "pets"), ("animals", 2, None), ("pets", 1, None)):
            record = found(users.alice, name, version)
            assert record is not None
            assert record.sealed_name == sealed
            SEAL.verify(record)

    def test_two_models_change_places(self, users: Users) -> None:
        build_sealed(users.alice, "a", artifact="aa" * 32)
        build_sealed(users.alice, "b", artifact="bb" * 32)
        users.alice.execute("BEGIN")
        for old, new in (("a", "c"), ("b", "a"), ("c", "b")):
            users.alice.execute(store.rename_model(old, new, False))
        users.alice.execute("COMMIT")
        for name, artifact in (("a", "bb"), ("b", "aa")):
            record = found(users.alice, name)
            assert record is not None
            assert record.artifact == artifact * 32
            SEAL.verify(record)

    def test_grants_go_with_it(self, users: Users) -> None:
        build(users.alice)
        users.alice.execute(grant("pets", role_of(users.bob)))
        users.alice.execute(store.rename_model("pets", "animals", False))
        assert names(users.bob) == ["animals"]

    @pytest.mark.parametrize("taken", ["pets", "cars", "secret"])
    def test_a_name_that_is_taken(self, users: Users, taken: str) -> None:
        """By itself, by another model of one's own, and by one that cannot be seen."""
        build(users.alice)
        build(users.alice, "cars")
        build(users.bob, "secret")
        with pytest.raises(psycopg.errors.DuplicateObject, match=f'model "{taken}" already exists'):
            users.alice.execute(store.rename_model("pets", taken, False))

    @pytest.mark.parametrize("name", ["", "x" * 64, "猫" * 22])
    def test_names_that_cannot_be(self, users: Users, name: str) -> None:
        build(users.alice)
        with pytest.raises(psycopg.errors.InvalidName):
            users.alice.execute(store.rename_model("pets", name, False))


class TestOwner:
    def test_a_member_gives_it_to_the_group(self, users: Users) -> None:
        build_sealed(users.member)
        users.member.execute(give("pets", users.team))
        record = found(users.member)
        assert record is not None
        assert (record.owner, record.sealed_owner) == (users.team, role_of(users.member))
        SEAL.verify(record)
        users.member.execute(f"SET ROLE {users.team}")
        build_sealed(users.member, overwrite=True)
        assert names(users.member) == ["pets"]

    def test_a_member_that_does_not_inherit_loses_sight_of_it(self, any_database: Database, connect: Connect, users: Users) -> None:
        """PostgreSQL asks for SET ROLE, and no more."""
        name, url = any_database.add_role(attributes="LOGIN NOINHERIT")
        any_database.execute(f"GRANT {users.team} TO {name}")
        connection = connect(url)
        build_sealed(connection)
        connection.execute(give("pets", users.team))
        assert names(connection) == []
        with pytest.raises(DENIED, match="must be owner of model pets"):
            connection.execute(give("pets", name))
        connection.execute(f"SET ROLE {users.team}")
        assert names(connection) == ["pets"]

    def test_privileges_without_set_role_are_not_enough(self, database: Database, connect: Connect) -> None:
        """Since PostgreSQL 16 the two can be had apart."""
        name, url = database.add_role()
        team, _ = database.add_role("team", attributes="NOLOGIN")
        database.execute(f"GRANT {team} TO {name} WITH SET FALSE")
        connection = connect(url)
        build(connection)
        with pytest.raises(DENIED, match=f'must be able to SET ROLE "{team}"'):
            connection.execute(give("pets", team))
        with pytest.raises(DENIED, match=f'must be able to SET ROLE "{team}"'):
            connection.execute(f"UPDATE thanosql.model SET owner = '{team}'")
        connection.execute(store.rename_model("pets", "animals", False))

    def test_a_member_renames_the_groups_without_being_able_to_become_it(self, database: Database, connect: Connect) -> None:
        (name, url), (other, other_url) = database.add_role(), database.add_role()
        database.execute(f"GRANT {other} TO {name} WITH SET FALSE")
        build(connect(other_url))
        connect(url).execute(store.rename_model("pets", "animals", False))
        assert names(connect(other_url)) == ["animals"]

    def test_a_stranger(self, users: Users) -> None:
        build(users.alice)
        with pytest.raises(DENIED, match="must be able to SET ROLE"):
            users.alice.execute(give("pets", role_of(users.bob)))
        with pytest.raises(MISSING, match='role "nobody" does not exist'):
            users.alice.execute(give("pets", "nobody"))
        users.alice.execute(give("pets", role_of(users.alice)))
        assert names(users.alice) == ["pets"]

    def test_a_superuser_gives_to_anybody(self, users: Users, any_database: Database) -> None:
        build_sealed(users.alice)
        any_database.execute(give("pets", role_of(users.bob)))
        assert [names(user) for user in users] == [[], ["pets"], []]
        record = found(users.bob)
        assert record is not None
        SEAL.verify(record)

    def test_grants_stay_and_are_the_new_owners(self, users: Users) -> None:
        build(users.member)
        users.member.execute(grant("pets", role_of(users.bob), "public"))
        users.member.execute(give("pets", users.team))
        assert names(users.alice) == ["pets"]
        [(privileges,)] = users.member.execute("SELECT privileges FROM thanosql.models").fetchall()
        assert set(privileges.split("\n")) == {f"{role_of(users.bob)}=U/{users.team}", f"=U/{users.team}"}
        users.member.execute(revoke("pets", "public", role_of(users.bob)))
        assert names(users.alice) == names(users.bob) == []


class TestVersions:
    def test_an_older_version_until_the_next_build(self, users: Users) -> None:
        for _ in range(3):
            build(users.alice, overwrite=True)
        users.alice.execute(store.set_version("pets", 1, False))
        assert found(users.alice).version == 1  # type: ignore[union-attr]
        assert users.alice.execute("SELECT version, versions FROM thanosql.models").fetchall() == [(1, [1, 2, 3])]
        users.alice.execute(store.set_version("pets", 2, False))
        assert found(users.alice).version == 2  # type: ignore[union-attr]
        build(users.alice, overwrite=True)
        assert found(users.alice).version == 4  # type: ignore[union-attr]

    def test_a_version_that_is_not_there(self, users: Users) -> None:
        build(users.alice)
        build(users.alice, overwrite=True)
        for statement in (store.set_version("pets", 7, False), store.drop_version("pets", 7, False), store.describe_model("pets", 7)):
            with pytest.raises(MISSING, match='model "pets@7" does not exist') as caught:
                users.alice.execute(statement)
            assert caught.value.diag.message_hint == "Versions of model pets are: 1, 2."

    def test_dropping_the_current_one_leaves_the_newest(self, users: Users) -> None:
        for _ in range(3):
            build(users.alice, overwrite=True)
        users.alice.execute(store.set_version("pets", 1, False))
        users.alice.execute(store.drop_version("pets", 1, False))
        assert found(users.alice).version == 3  # type: ignore[union-attr]
        users.alice.execute(store.drop_version("pets", 3, False))
        assert found(users.alice).version == 2  # type: ignore[union-attr]

    def test_a_number_is_not_used_again(self, users: Users) -> None:
        build(users.alice)
        build(users.alice, overwrite=True)
        users.alice.execute(store.drop_version("pets", 2, False))
        users.alice.execute(store.drop_version("pets", 2, True))
        build(users.alice, overwrite=True)
        assert found(users.alice).version == 3  # type: ignore[union-attr]

    def test_dropping_the_last_one_drops_the_model(self, users: Users) -> None:
        build(users.alice)
        users.alice.execute(grant("pets", "public"))
        users.alice.execute(store.drop_version("pets", 1, False))
        assert users.alice.execute("SELECT * FROM thanosql.model").fetchall() == []
        assert users.alice.execute(store.reserve_model("pets", False)).fetchall() == [(role_of(users.alice), "1")]

    def test_a_version_that_went_by_hand(self, users: Users) -> None:
        build(users.alice)
        build(users.alice, overwrite=True)
        users.alice.execute("UPDATE thanosql.model SET current_version = 1")
        users.alice.execute("DELETE FROM thanosql.model_version WHERE version = 1")
        assert found(users.alice).version == 2  # type: ignore[union-attr]
        assert names(users.alice) == ["pets"]


class TestGrants:
    def test_to_roles_and_to_all(self, users: Users) -> None:
        build(users.alice)
        users.alice.execute(grant("pets", role_of(users.bob), users.team))
        assert [names(user) for user in users] == [["pets"]] * 3
        users.alice.execute(revoke("pets", users.team))
        assert [names(user) for user in users] == [["pets"], ["pets"], []]
        users.alice.execute(grant("pets", "public"))
        users.alice.execute(grant("pets", "public"))
        assert [names(user) for user in users] == [["pets"]] * 3
        users.alice.execute(revoke("pets", "public", role_of(users.bob)))
        users.alice.execute(revoke("pets", "public"))
        assert [names(user) for user in users] == [["pets"], [], []]

    def test_several_models_or_none(self, users: Users) -> None:
        build(users.alice)
        build(users.alice, "cars")
        with pytest.raises(MISSING, match='model "boats" does not exist'):
            users.alice.execute(store.grant_usage(["pets", "boats"], ["'public'"]))
        assert names(users.bob) == []
        users.alice.execute(store.grant_usage(["pets", "cars"], ["'public'"]))
        assert names(users.bob) == ["cars", "pets"]

    def test_by_others_than_the_owner(self, users: Users) -> None:
        build(users.alice)
        bob = role_of(users.bob)
        with pytest.raises(MISSING):
            users.bob.execute(grant("pets", bob))
        users.alice.execute(grant("pets", bob))
        for statement in (grant("pets", users.team), revoke("pets", bob)):
            with pytest.raises(DENIED, match="must be owner of model pets"):
                users.bob.execute(statement)

    def test_roles_that_are_not_there(self, users: Users, any_database: Database) -> None:
        build(users.alice)
        for statement in (grant("pets", "nobody"), revoke("pets", "nobody")):
            with pytest.raises(MISSING, match='role "nobody" does not exist'):
                users.alice.execute(statement)
        gone, _ = any_database.add_role()
        users.alice.execute(grant("pets", gone))
        any_database.execute(f"DROP ROLE {gone}")
        users.alice.execute(revoke("pets", gone))
        assert users.alice.execute("SELECT * FROM thanosql.model_grant").fetchall() == []

    def test_the_list_shows_them_as_dp_does(self, users: Users) -> None:
        build(users.alice)
        alice, bob = role_of(users.alice), role_of(users.bob)
        shown = "SELECT privileges FROM thanosql.models"
        assert users.alice.execute(shown).fetchall() == [(None,)]
        users.alice.execute(grant("pets", bob))
        users.alice.execute(grant("pets", "public"))
        assert users.alice.execute(shown).fetchall() == [(f"{bob}=U/{alice}\n=U/{alice}",)]
        assert users.member.execute(shown).fetchall() == [(f"=U/{alice}",)]


class TestDescribe:
    def described(self, connection: psycopg.Connection, version: int | None = None) -> dict[str, str | None]:
        return dict(connection.execute(store.describe_model("pets", version)).fetchall())

    def test_everything(self, users: Users, any_database: Database) -> None:
        job = uuid.uuid4()
        alice = role_of(users.alice)
        any_database.execute(
            "INSERT INTO thanosql.job (id, kind, model, role, proxy, proxy_lock, finished_at) "
            f"VALUES ('{job}', 'BUILD', 'pets', '{alice}', 'p', 1, now())",
            "INSERT INTO thanosql.training_log (job, model, epoch, loss, accuracy, learning_rate, seconds) "
            f"VALUES ('{job}', 'pets', 2, 0.25, 1, 0.0005, 3.21), ('{job}', 'pets', 1, 0.693147, NULL, 1e-3, 3)",
        )
        build_sealed(users.alice, "cats", job=str(job), metrics={"data_sha256": "12ab", "loss": 0.1234567, "x": None})
        build(users.alice, "cats", overwrite=True)
        users.alice.execute(store.rename_model("cats", "pets", False))
        users.alice.execute(grant("pets", role_of(users.bob)))
        shown = self.described(users.alice, 1)
        built = shown.pop("built")
        assert built is not None
        assert built.endswith(f" UTC by {alice} as cats")
        assert shown == {
            "name": "pets",
            "version": "1 (current is 2)",
            "versions": "1, 2",
            "architecture": "ConvNeXt_Tiny",
            "classes": "cat, dog",
            "data": "400 images",
            "data sha256": "12ab",
            "size": "1234 bytes",
            "owner": alice,
            "privileges": f"{role_of(users.bob)}=U/{alice}",
            "option epochs": "1",
            "option weights": None,
            "metric loss": "0.123457",
            "metric x": None,
            "epoch 1": "loss 0.6931, learning rate 0.001, 3.0 s",
            "epoch 2": "loss 0.2500, accuracy 1.0000, learning rate 0.0005, 3.2 s",
        }
        assert self.described(users.bob, 1) == {**shown, "built": built}, "who may use it sees how it was made"
        current = self.described(users.alice)
        assert current["version"] == "2 (current)"
        assert "epoch 1" not in current

    def test_what_cannot_be_seen_is_not_there(self, users: Users) -> None:
        build(users.alice)
        with pytest.raises(MISSING, match='model "pets" does not exist'):
            self.described(users.bob)
        with pytest.raises(MISSING, match='model "pets" does not exist'):
            self.described(users.bob, 1)


CHANGES = [
    ("ALTER MODEL", store.rename_model("pets", "animals", False)),
    ("ALTER MODEL", give("pets", "postgres")),
    ("ALTER MODEL", store.set_version("pets", 1, False)),
    ("DROP MODEL", store.drop_model("pets", False)),
    ("DROP MODEL", store.drop_version("pets", 1, False)),
    ("GRANT", grant("pets", "public")),
    ("REVOKE", revoke("pets", "public")),
]


@pytest.mark.parametrize(("tag", "statement"), CHANGES, ids=[change[1].split("(")[0][14:] for change in CHANGES])
class TestAllChanges:
    def test_read_only(self, database: Database, connect: Connect, tag: str, statement: str) -> None:
        """Even where there is nothing to change, as PostgreSQL's own."""
        connection = connect(database.url)
        build(connection)
        connection.execute("SET default_transaction_read_only = on")
        for change in (statement, statement.replace("false)", "true)").replace("pets", "nothing")):
            with pytest.raises(psycopg.errors.ReadOnlySqlTransaction, match=f"cannot execute {tag} in a read-only transaction"):
                connection.execute(change)

    def test_rollback_and_savepoint(self, database: Database, connect: Connect, tag: str, statement: str) -> None:
        connection = connect(database.url)
        build(connection)
        build(connection, overwrite=True)
        state = (
            "SELECT m::text, v::text, g::text FROM thanosql.model m JOIN thanosql.model_version v USING (name) "
            "LEFT JOIN thanosql.model_grant g USING (name)"
        )
        before = connection.execute(state).fetchall()
        connection.execute("BEGIN")
        connection.execute("SAVEPOINT s")
        connection.execute(statement)
        connection.execute("ROLLBACK TO s")
        assert connection.execute(state).fetchall() == before
        connection.execute(statement)
        connection.execute("ROLLBACK")
        assert connection.execute(state).fetchall() == before
        with connect(database.url) as other:  # the name is not held any longer, either
            other.execute(store.reserve_model("pets", True))

    def test_a_stranger(self, users: Users, tag: str, statement: str) -> None:
        build(users.alice)
        with pytest.raises(MISSING, match='model "pets" does not exist'):
            users.bob.execute(statement)
        users.alice.execute(grant("pets", role_of(users.bob)))
        with pytest.raises(DENIED, match="must be owner of model pets"):
            users.bob.execute(statement)


def test_models_made_before_are_still_good(empty_database: Database, connect: Connect) -> None:
    """Migrating keeps their seals, and they may be renamed."""
    connection = connect(empty_database.url)
    for migration in MIGRATIONS[:2]:
        connection.execute(migration.sql)
    record = SEAL.sign(make_record())
    connection.execute(store.register_model(record))
    connection.execute("INSERT INTO thanosql.model_grant (name, owner, grantee) VALUES ('pets', 'postgres', 'public')")
    for migration in MIGRATIONS[2:]:
        connection.execute(migration.sql)
    for name in ("pets", "animals"):
        kept = found(connection, name)
        assert kept is not None
        SEAL.verify(kept)
        assert connection.execute("SELECT privileges FROM thanosql.models").fetchall() == [("=U/postgres",)]
        if name == "pets":
            connection.execute(store.rename_model("pets", "animals", False))
