"""A role that means harm, with all that SQL gives it: it may write rows of its own, and must gain nothing by that.

What it wants is a row that passes for sealed and names the weights of a model that it was lent, or never had.
"""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest

from tests.catalog.conftest import Users, build, make_record, names
from tests.catalog.test_life import SEAL, build_sealed, found, give, grant, revoke, role_of
from tests.databases import Database
from thanoproxy.catalog import store
from thanoproxy.errors import InsufficientPrivilege

Connect = Callable[..., psycopg.Connection]
DENIED = psycopg.errors.InsufficientPrivilege

COPY = """
INSERT INTO thanosql.model_version
SELECT (jsonb_populate_record(v, {changes})).* FROM thanosql.model_version v WHERE v.name = 'pets'
"""


@pytest.fixture
def lent(users: Users) -> Users:
    """Alice lets bob use a model, and he has one of his own called `mine`."""
    build_sealed(users.alice, artifact="a1" * 32)
    users.alice.execute(grant("pets", role_of(users.bob)))
    build_sealed(users.bob, "mine", artifact="b0" * 32)
    return users


def copy(users: Users, **changes: str) -> None:
    """Bob inserts alice's sealed row as a version of his own, with those columns changed."""
    pairs = ", ".join(f"'{column}', '{value}'" for column, value in {"name": "mine", "version": "2", **changes}.items())
    users.bob.execute(COPY.format(changes=f"jsonb_build_object({pairs})"))


def test_a_copied_row_must_bear_its_own_role(lent: Users) -> None:
    with pytest.raises(DENIED, match="row-level security"):
        copy(lent)
    with pytest.raises(DENIED, match="row-level security"):
        copy(lent, owner=role_of(lent.bob))
    with pytest.raises(DENIED, match="row-level security"):
        copy(lent, owner=role_of(lent.bob), sealed_owner=role_of(lent.bob))
    with pytest.raises(DENIED, match="row-level security"):
        copy(lent, owner=role_of(lent.bob), sealed_name="mine")


def test_a_copied_row_that_does_has_no_seal(lent: Users) -> None:
    copy(lent, owner=role_of(lent.bob), sealed_owner=role_of(lent.bob), sealed_name="mine")
    copied = found(lent.bob, "mine")
    assert copied is not None
    assert (copied.version, copied.artifact) == (2, "a1" * 32)
    with pytest.raises(InsufficientPrivilege, match="seal"):
        SEAL.verify(copied)


def test_not_by_way_of_the_function_or_the_gate(lent: Users) -> None:
    """Whoever asks for a sealed name in the payload gets the row's own."""
    theirs = found(lent.bob, "pets")
    assert theirs is not None
    forged = make_record(
        name="mine", owner=role_of(lent.bob), version=2, artifact=theirs.artifact, mac=theirs.mac,
        sealed_name="pets", sealed_owner=role_of(lent.alice),
    )  # fmt: skip
    lent.bob.execute(store.register_model(forged))
    with pytest.raises(InsufficientPrivilege, match="seal"):
        SEAL.verify(found(lent.bob, "mine") or theirs)
    with lent.bob.cursor().copy(store.GATE) as gate:
        gate.write(store.gate_register(make_record(**{**{f: getattr(forged, f) for f in forged.__struct_fields__}, "version": 3})))
    with pytest.raises(InsufficientPrivilege, match="seal"):
        SEAL.verify(found(lent.bob, "mine") or theirs)


def test_renaming_ones_own_to_the_sealed_name_does_not_help(lent: Users) -> None:
    """The seal is over the owner, too."""
    lent.alice.execute(store.rename_model("pets", "animals", False))
    lent.bob.execute(store.rename_model("mine", "pets", False))
    theirs, mine = found(lent.bob, "animals"), found(lent.bob, "pets")
    assert theirs is not None
    assert mine is not None
    SEAL.verify(theirs)
    SEAL.verify(mine)
    bob = role_of(lent.bob)
    lent.bob.execute(store.register_model(make_record(name="pets", owner=bob, version=2, artifact=theirs.artifact, mac=theirs.mac)))
    with pytest.raises(InsufficientPrivilege, match="seal"):
        SEAL.verify(found(lent.bob, "pets") or theirs)


@pytest.mark.parametrize(
    "change",
    ["name = 'stolen'", "owner = current_user", "current_version = 1", "retired = 9", "name = 'mine', owner = current_user"],
)
def test_rows_of_others_are_out_of_reach(lent: Users, change: str) -> None:
    assert lent.bob.execute(f"UPDATE thanosql.model SET {change} WHERE name = 'pets'").rowcount == 0
    assert lent.bob.execute("DELETE FROM thanosql.model WHERE name = 'pets'").rowcount == 0
    assert lent.bob.execute("DELETE FROM thanosql.model_version WHERE name = 'pets'").rowcount == 0
    assert lent.bob.execute("SELECT * FROM thanosql.model WHERE name = 'pets' FOR UPDATE").rowcount == 0
    assert names(lent.alice) == ["pets"]


def test_what_a_version_is_cannot_be_updated(lent: Users) -> None:
    for column in ("artifact", "mac", "sealed_name", "sealed_owner", "name", "owner", "version"):
        with pytest.raises(DENIED, match="permission denied"):
            lent.bob.execute(f"UPDATE thanosql.model_version SET {column} = {column}")


def test_nobody_is_given_what_he_did_not_ask_for(lent: Users) -> None:
    """A model in alice's name would be taken for hers."""
    for statement in (give("mine", role_of(lent.alice)), f"UPDATE thanosql.model SET owner = '{role_of(lent.alice)}' WHERE name = 'mine'"):
        with pytest.raises(DENIED, match="must be able to SET ROLE"):
            lent.bob.execute(statement)


def test_granting_oneself(lent: Users) -> None:
    build(lent.alice, "secret")
    alice, bob = role_of(lent.alice), role_of(lent.bob)
    insert = "INSERT INTO thanosql.model_grant (name, owner, grantee) VALUES ('secret', '{}', '{}')"
    with pytest.raises(DENIED, match="row-level security"):
        lent.bob.execute(insert.format(alice, bob))
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        lent.bob.execute(insert.format(bob, bob))
    with pytest.raises(DENIED, match="permission denied"):
        lent.alice.execute(
            f"INSERT INTO thanosql.model_grant (name, owner, grantee, granted_at) VALUES ('secret', '{alice}', '{bob}', now())"
        )
    assert names(lent.bob) == ["mine", "pets"]


def test_revoking_from_others(lent: Users) -> None:
    lent.alice.execute(grant("pets", "public"))
    assert lent.bob.execute("DELETE FROM thanosql.model_grant").rowcount == 0
    with pytest.raises(DENIED):
        lent.bob.execute(revoke("pets", "public"))
    assert names(lent.member) == ["pets"]


def test_after_the_end_of_a_loan_nothing_is_left(lent: Users) -> None:
    lent.alice.execute(revoke("pets", role_of(lent.bob)))
    assert found(lent.bob) is None
    for view in ("models", "model_versions", "model", "model_version", "model_grant", "training_log"):
        rows = lent.bob.execute(f"SELECT * FROM thanosql.{view}").fetchall()
        assert all("pets" not in row for row in rows)


def test_functions_cannot_be_made_to_mean_something_else(lent: Users, any_database: Database) -> None:
    """Not by objects of his own that come first in his search_path, nor by temporary ones."""
    bob = lent.bob
    any_database.execute(f"GRANT CREATE ON DATABASE {any_database.name} TO {role_of(bob)}")
    for statement in (
        "CREATE SCHEMA evil",
        "CREATE FUNCTION evil.is_member(name) RETURNS boolean LANGUAGE sql AS 'SELECT true'",
        "CREATE FUNCTION evil.pg_has_role(oid, text) RETURNS boolean LANGUAGE sql AS 'SELECT true'",
        "CREATE FUNCTION evil.wrong(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT true'",
        "CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.wrong)",
        "CREATE TEMP TABLE pg_roles AS SELECT oid, 'x'::name AS rolname FROM pg_catalog.pg_roles",
        "CREATE TEMP TABLE model AS SELECT 'pets' AS name, current_user AS owner",
        "SET search_path = evil, pg_temp, pg_catalog, thanosql",
        "SET standard_conforming_strings = off",
    ):
        bob.execute(statement)
    for statement in (
        store.drop_model("pets", False),
        store.rename_model("pets", "x", False),
        give("pets", role_of(bob)),
        grant("pets", "public"),
    ):
        with pytest.raises(DENIED, match="must be owner of model pets"):
            bob.execute(statement)
    bob.execute(store.rename_model("mine", "still mine", False))
    bob.execute(store.drop_version("still mine", 1, False))
    assert names(lent.alice) == ["pets"]


NAME = "(1952997742, hashtext('pets'))"


@pytest.mark.parametrize("way", ["", "_shared"])
def test_a_strangers_lock_on_a_name_does_not_count(lent: Users, way: str) -> None:
    """Advisory locks are anybody's to take, and that of a model's name is no secret."""
    lent.bob.execute(f"SELECT pg_advisory_lock{way}{NAME}")
    build(lent.alice, overwrite=True)
    for statement in (
        store.set_version("pets", 1, False),
        store.drop_version("pets", 1, False),
        store.rename_model("pets", "dogs", False),
        store.drop_model("dogs", False),
    ):
        lent.alice.execute(statement)
    assert names(lent.alice) == []


def test_who_may_hold_a_name_is_told(lent: Users, any_database: Database, connect: Connect) -> None:
    """Somebody who could be at work on the model, here a superuser; and of a name that is free, anybody could."""
    other = connect(any_database.url)
    other.execute(f"SELECT pg_advisory_lock{NAME}")
    lent.bob.execute("SELECT pg_advisory_lock(1952997742, hashtext('free'))")
    holders = (("pets", other, "postgres"), ("free", lent.bob, role_of(lent.bob)))
    for name, holder, role in holders:
        with pytest.raises(psycopg.errors.LockNotAvailable, match=f'model "{name}" is being built or altered') as caught:
            build(lent.alice, name, overwrite=True)
        assert caught.value.diag.message_detail == f'Process {holder.info.backend_pid} of role "{role}" holds the name.'
    with pytest.raises(psycopg.errors.LockNotAvailable) as caught:
        lent.alice.execute(store.drop_model("pets", False))
    assert f"Process {other.info.backend_pid} " in (caught.value.diag.message_detail or "")


def test_a_dead_proxys_lock_cannot_be_taken_over(lent: Users, any_database: Database, connect: Connect) -> None:
    """Jobs would show as running for ever."""
    job = "INSERT INTO thanosql.job (id, kind, model, role, proxy, proxy_lock) VALUES (gen_random_uuid(), 'BUILD', 'pets', '{}', 'x', 4711)"
    any_database.execute(job.format(role_of(lent.bob)))
    lent.bob.execute("SELECT pg_advisory_lock(1952997743, 4711)")
    shown = "SELECT state, sqlstate, error FROM thanosql.jobs"
    assert lent.bob.execute(shown).fetchall() == [("failed", "58000", "the proxy that ran this job is gone")]
    lent.bob.execute("SELECT pg_advisory_unlock(1952997743, 4711)")
    connect(any_database.url).execute("SELECT pg_advisory_lock(1952997743, 4711)")
    assert lent.bob.execute(shown).fetchall() == [("queued", None, None)]


def test_jobs_are_written_by_the_proxy_alone(lent: Users, any_database: Database) -> None:
    insert = "INSERT INTO thanosql.job (id, kind, model, role, proxy, proxy_lock) VALUES (gen_random_uuid(), 'BUILD', 'pets', '{}', 'x', 1)"
    any_database.execute(insert.format(role_of(lent.alice)))
    for statement in (
        insert.format(role_of(lent.bob)),
        "UPDATE thanosql.job SET state = 'done'",
        "DELETE FROM thanosql.job",
        "INSERT INTO thanosql.training_log (job, model, epoch) SELECT id, model, 1 FROM thanosql.job",
        "DELETE FROM thanosql.training_log",
        "SELECT * FROM thanosql.job FOR UPDATE",
    ):
        with pytest.raises(DENIED):
            lent.bob.execute(statement)
    assert lent.bob.execute("SELECT * FROM thanosql.jobs").fetchall() == []
    assert len(lent.alice.execute("SELECT * FROM thanosql.jobs").fetchall()) == 1


def test_nothing_of_the_schema_can_be_changed_or_hung_a_trigger_on(lent: Users) -> None:
    for statement in (
        "CREATE TRIGGER t BEFORE INSERT ON thanosql.model_version FOR EACH ROW EXECUTE FUNCTION thanosql.fill_seal()",
        "CREATE FUNCTION thanosql.f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE OR REPLACE FUNCTION thanosql.may_become(name) RETURNS boolean LANGUAGE sql AS 'SELECT true'",
        "ALTER TABLE thanosql.model DISABLE ROW LEVEL SECURITY",
        "CREATE POLICY p ON thanosql.model USING (true)",
        "TRUNCATE thanosql.model_grant",
    ):
        with pytest.raises(DENIED):
            lent.bob.execute(statement)
    lent.bob.execute("SET row_security = off")
    with pytest.raises(DENIED, match="row-level security"):
        lent.bob.execute("SELECT * FROM thanosql.model_version")
