"""Who may see, use, build and drop what: PostgreSQL's roles and row-level security."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest

from tests.catalog.conftest import Users, build, make_record, names
from tests.catalog.test_life import give, grant
from tests.databases import Database
from thanoproxy.catalog import store

Connect = Callable[..., psycopg.Connection]
DENIED = psycopg.errors.InsufficientPrivilege


def test_a_model_is_seen_by_its_owner_alone(users: Users) -> None:
    build(users.alice)
    assert [names(user) for user in users] == [["pets"], [], []]
    assert users.bob.execute(store.find_model("pets")).fetchall() == []
    for table in ("model", "model_version", "model_grant", "job", "training_log"):
        assert users.bob.execute(f"SELECT * FROM thanosql.{table}").fetchall() == []


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_name_that_another_role_has_taken(users: Users, overwrite: bool) -> None:
    build(users.alice)
    with pytest.raises(DENIED, match="taken by a model of another role"):
        users.bob.execute(store.reserve_model("pets", overwrite))


def test_registering_under_a_hidden_name(users: Users) -> None:
    """Somebody else's BUILD ended first."""
    build(users.alice)
    with pytest.raises(psycopg.errors.DuplicateObject):
        users.bob.execute(store.register_model(make_record(owner=users.bob.info.user)))


def test_dropping_what_one_cannot_see(users: Users) -> None:
    build(users.alice)
    with pytest.raises(psycopg.errors.UndefinedObject):
        users.bob.execute(store.drop_model("pets", False))
    users.bob.execute("DELETE FROM thanosql.model")
    users.bob.execute("DELETE FROM thanosql.model_version")
    assert names(users.alice) == ["pets"]


def test_registering_as_somebody_else(users: Users) -> None:
    with pytest.raises(DENIED, match="must be a member"):
        users.bob.execute(store.register_model(make_record(owner=users.alice.info.user)))
    with pytest.raises(DENIED, match="row-level security"):
        users.bob.execute("INSERT INTO thanosql.model VALUES ('pets', %s)", [users.alice.info.user])


def test_adding_a_version_to_somebody_elses_model(users: Users) -> None:
    """Not by hand either: the latest version is what PREDICT takes."""
    build(users.alice)
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        users.bob.execute(
            "INSERT INTO thanosql.model_version (name, version, architecture, classes, images, artifact, size_bytes, mac)"
            " VALUES ('pets', 9, 'x', '{}', 0, 'x', 0, '')"
        )


def test_rows_are_never_changed_by_hand(users: Users) -> None:
    """But for what ALTER MODEL changes of one's own models, which row-level security guards (test_hostile.py)."""
    build(users.alice)
    altered = {"name", "owner", "current_version", "retired"}
    for table in ("model", "model_version", "model_grant", "job", "training_log", "migration"):
        columns = [column.name for column in users.alice.execute(f"SELECT * FROM thanosql.{table} LIMIT 0").description or ()]
        for column in set(columns) - (altered if table == "model" else set()):
            with pytest.raises(DENIED):
                users.alice.execute(f"UPDATE thanosql.{table} SET {column} = DEFAULT")


def test_a_members_models_belong_to_it_and_the_groups_to_all(users: Users, any_database: Database, connect: Connect) -> None:
    users.member.execute(f"SET ROLE {users.team}")
    build(users.member, "shared")
    users.member.execute("RESET ROLE")
    build(users.member, "own")
    assert names(users.member) == ["own", "shared"]
    users.member.execute(f"SET ROLE {users.team}")
    assert names(users.member) == ["shared"]
    users.member.execute("RESET ROLE")
    build(users.member, "shared", overwrite=True)
    [(payload,)] = users.member.execute(store.find_model("shared")).fetchall()
    record = store.read_model(payload)
    assert (record.owner, record.version) == (users.team, 2)
    users.member.execute(store.drop_model("shared", False))
    assert names(users.member) == ["own"]


def test_a_grant_lets_use_and_not_drop(users: Users, any_database: Database) -> None:
    build(users.alice)
    alice, bob = users.alice.info.user, users.bob.info.user
    any_database.execute(f"INSERT INTO thanosql.model_grant (name, owner, grantee) VALUES ('pets', '{alice}', '{bob}')")
    assert [names(user) for user in users] == [["pets"], ["pets"], []]
    with pytest.raises(DENIED, match="must be owner of model pets"):
        users.bob.execute(store.drop_model("pets", False))
    with pytest.raises(DENIED, match="must be owner of model pets"):
        users.bob.execute(store.reserve_model("pets", True))
    any_database.execute(f"INSERT INTO thanosql.model_grant (name, owner, grantee) VALUES ('pets', '{alice}', 'public')")
    assert names(users.member) == ["pets"]
    users.alice.execute(store.drop_model("pets", False))
    assert names(users.bob) == []


def test_models_of_a_dropped_role_are_no_error(users: Users, any_database: Database, connect: Connect) -> None:
    name, url = any_database.add_role()
    gone = connect(url)
    build(gone, "orphan")
    gone.close()
    any_database.execute(f"DROP ROLE {name}")
    assert names(users.alice) == []
    assert names(connect(any_database.url)) == ["orphan"]


def test_models_of_a_role_that_is_gone_are_given_away_by_a_superuser(users: Users, any_database: Database, connect: Connect) -> None:
    name, url = any_database.add_role()
    gone = connect(url)
    for model in ("pets", "cars", "boats"):
        build(gone, model)
    gone.execute(grant("pets", users.bob.info.user))
    gone.close()
    any_database.execute(f"ALTER ROLE {name} RENAME TO {name}_now")
    alice = users.alice.info.user
    with pytest.raises(DENIED, match="must be owner of model pets"):
        users.bob.execute(give("pets", users.bob.info.user))
    superuser = connect(any_database.url)
    superuser.execute(give("pets", alice))
    superuser.execute(store.drop_model("boats", False))
    superuser.execute(f"UPDATE thanosql.model SET owner = '{alice}' WHERE owner = '{name}'")
    assert names(users.alice) == ["cars", "pets"]


def test_functions_are_pinned_and_only_one_runs_as_its_owner(any_database: Database, connect: Connect) -> None:
    rows = connect(any_database.url).execute(
        "SELECT p.proname, p.proconfig, p.prosecdef FROM pg_proc p WHERE p.pronamespace = 'thanosql'::regnamespace"
    )
    found = {name: (config, definer) for name, config, definer in rows}
    assert found
    pinned = ["search_path=pg_catalog, pg_temp"]
    # Of one, row-level security is pinned, too: it runs while a dump is restored (migrations/0006_files.sql).
    assert {name: config for name, (config, _) in found.items() if config != pinned} == {"predicted": [*pinned, "row_security=on"]}
    assert [name for name, (_, definer) in found.items() if definer] == ["name_is_taken"]
    views = connect(any_database.url).execute(
        "SELECT relname FROM pg_class WHERE relnamespace = 'thanosql'::regnamespace AND relkind = 'v'"
        " AND NOT coalesce(reloptions @> '{security_invoker=true}', false)"
    )
    assert views.fetchall() == [("gate",)]
