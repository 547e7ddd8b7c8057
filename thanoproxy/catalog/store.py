"""The catalogue in SQL, to be sent on the client's own connection, in its own transaction, with its own rights.  Text in, text out.

Those sessions are the users': every name and every operator is qualified, every literal is `quote.literal`'s, and what comes back
for our own use is ASCII, whatever the client's encoding.  None of it has parameters, so it fits both protocols.
"""

from __future__ import annotations

import binascii
import json
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from thanoproxy.catalog.quote import ascii_json, copy_line, literal
from thanoproxy.catalog.records import ModelRecord
from thanoproxy.catalog.saved import CHANNEL
from thanoproxy.errors import InternalError, NotInstalled, ThanoError

__all__ = [
    "GATE",
    "describe_model",
    "drop_model",
    "drop_version",
    "fail_block",
    "find_model",
    "gate_raise",
    "gate_register",
    "gate_row",
    "gate_wait",
    "give_model",
    "grant_usage",
    "list_models",
    "not_installed",
    "own_model",
    "read_model",
    "register_model",
    "rename_model",
    "reserve_fit",
    "reserve_model",
    "revoke_usage",
    "saved_rows",
    "saved_views",
    "set_version",
    "used_model",
    "view_saved",
]

GATE = "COPY thanosql.gate (action, payload) FROM STDIN"
"""Opens the gate; `gate_row` and its like are what may be copied in."""

# Column of thanosql.model_version -> field of ModelRecord, where the value needs no help on its way into JSON.
FIELDS = (
    "name",
    "version",
    "owner",
    "architecture",
    "artifact",
    "classes",
    "options",
    "metrics",
    "images",
    "size_bytes",
    "sealed_name",
    "sealed_owner",
    "job",
)
LISTED = (
    "name",
    "class_name",
    "last_updated_utc",
    "version",
    "owner",
    "architecture",
    "classes",
    "images",
    "metrics",
    "options",
    "size_bytes",
    "versions",
    "privileges",
)

# SQLSTATE and what the message names, where the schema is missing: 42P01 undefined_table, 3F000 invalid_schema_name, 42883
# undefined_function.
MISSING = {"42P01", "3F000", "42883"}


def find_model(name: str, version: int | None = None, more: str = "") -> str:
    """A query for one version of a model, or the current one: at most one row, whose one column `read_model` understands."""
    pairs = ", ".join(f"'{field}', v.{field}" for field in FIELDS)
    document = f"pg_catalog.json_build_object({pairs}, 'mac', pg_catalog.encode(v.mac, 'hex'))::pg_catalog.text"
    column = f"pg_catalog.encode(pg_catalog.convert_to({document}, 'UTF8'), 'hex') AS model"
    wanted = f"v.name OPERATOR(pg_catalog.=) {literal(name)}::pg_catalog.text"
    wanted += " AND v.current" if version is None else f" AND v.version OPERATOR(pg_catalog.=) {version:d}"
    return f"SELECT {column}{more} FROM thanosql.model_versions v WHERE {wanted}"  # noqa: S608


def own_model(name: str, version: int | None = None) -> str:
    """As `find_model`, with a second column: whether the role has the owner's rights."""
    return find_model(name, version, ", thanosql.is_member(v.owner)")


def used_model(name: str, version: int | None = None) -> str:
    """As `find_model`, with a second column: the role that asks."""
    return find_model(name, version, ", CURRENT_USER::pg_catalog.text")


def read_model(payload: str | bytes) -> ModelRecord:
    """What `find_model` found.  Its seal is not checked here."""
    try:
        fields = json.loads(bytes.fromhex(payload if isinstance(payload, str) else payload.decode("ascii")))
        fields["mac"] = binascii.unhexlify(fields["mac"])
        for field in ("name", "owner"):
            if fields[f"sealed_{field}"] == fields[field]:
                del fields[f"sealed_{field}"]
        return msgspec.convert(fields, ModelRecord)
    except (ValueError, TypeError, KeyError) as error:
        raise InternalError(f"the catalogue holds a model that cannot be read: {error}") from error


def reserve_model(name: str, overwrite: bool) -> str:
    """A query for the `owner` and `version` that a BUILD of this name would have, both as text.

    Fails with 42710 (taken), 42501 (another role's), 55P03 (being built by another session), 25006 (read only).  Writes nothing.
    """
    call = f"thanosql.reserve_model({literal(name)}::pg_catalog.text, {'true' if overwrite else 'false'})"
    return f"SELECT r.owner, r.version::pg_catalog.text AS version FROM {call} r"  # noqa: S608


def reserve_fit(name: str, overwrite: bool, start: str, version: int | None) -> str:
    """The same with a third column, what `find_model` finds of the model that a FIT starts from, or NULL."""
    call = f"thanosql.reserve_model({literal(name)}::pg_catalog.text, {'true' if overwrite else 'false'})"
    return f"SELECT r.owner, r.version::pg_catalog.text AS version, ({find_model(start, version)}) AS model FROM {call} r"  # noqa: S608


def register_model(record: ModelRecord) -> str:
    """Writes the row of a sealed record.  Fails with 42710 or 42501, as `reserve_model` does."""
    return f"SELECT thanosql.register_model({literal(_payload(record))}::pg_catalog.jsonb)"


def drop_model(name: str, if_exists: bool) -> str:
    """Removes a model with all of its versions.

    Like all that changes a model it fails with 42704 (no such model), 42501 (another role's), 25006 (read only); and like all that
    gives or takes a name, with 55P03 while that is being built.
    """
    return _call("drop_model", _text(name), _boolean(if_exists))


def drop_version(name: str, version: int, if_exists: bool) -> str:
    """Removes one version; the last one takes the model with it."""
    return _call("drop_version", _text(name), f"{version:d}", _boolean(if_exists))


def rename_model(name: str, new_name: str, if_exists: bool) -> str:
    """Fails with 42710 where the new name is taken, too."""
    return _call("rename_model", _text(name), _text(new_name), _boolean(if_exists))


def give_model(name: str, role: str, if_exists: bool) -> str:
    """Another owner, who must be a role that the current one may become.  `role` is an expression, as for all that name roles here."""
    return _call("give_model", _text(name), role, _boolean(if_exists))


def set_version(name: str, version: int, if_exists: bool) -> str:
    """Makes that version the current one, until the next BUILD."""
    return _call("set_version", _text(name), f"{version:d}", _boolean(if_exists))


def grant_usage(names: Sequence[str], roles: Sequence[str]) -> str:
    """Lets roles use models; the text 'public' stands for all roles."""
    return _call("grant_usage", _texts(map(_text, names)), _texts(roles))


def revoke_usage(names: Sequence[str], roles: Sequence[str]) -> str:
    return _call("revoke_usage", _texts(map(_text, names)), _texts(roles))


def describe_model(name: str, version: int | None) -> str:
    """A query for what there is to say about a model, as rows of `property` and `value`; it may stand in parentheses, too."""
    wanted = "NULL" if version is None else f"{version:d}"
    return f"SELECT d.property, d.value FROM thanosql.describe_model({_text(name)}, {wanted}::pg_catalog.int4) d"  # noqa: S608


def list_models() -> str:
    """A query for the models that the role may use; it may stand in parentheses, too."""
    return f"SELECT {', '.join(f'm.{column}' for column in LISTED)} FROM thanosql.models m ORDER BY m.name"  # noqa: S608


def saved_views(written: Sequence[str]) -> str:
    """A query for those of these names, as written in SQL, that are views with predictions: the name, the definition, the view's own
    name, and whether the role may read it."""
    names = ", ".join(literal(name) for name in written)
    return (
        "SELECT r.name, s.definition, c.relname, "  # noqa: S608
        "pg_catalog.has_table_privilege(c.oid, 'SELECT') FROM pg_catalog.unnest(ARRAY[" + names + "]::pg_catalog.text[]) r(name) "
        "JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) pg_catalog.to_regclass(r.name)::pg_catalog.oid "
        "JOIN thanosql.saved_view s ON s.view::pg_catalog.oid OPERATOR(pg_catalog.=) c.oid"
    )


def saved_rows(written: str) -> str:
    """A query for the definition of a materialized view with predictions, its name, and whether it is the current role's own; no row
    where that name is something else."""
    return (
        "SELECT s.definition, c.relname, c.relowner OPERATOR(pg_catalog.=) u.oid "  # noqa: S608
        "FROM thanosql.saved_materialized_view s "
        "JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) s.view::pg_catalog.oid "
        "JOIN pg_catalog.pg_roles u ON u.rolname OPERATOR(pg_catalog.=) CURRENT_USER "
        f"WHERE c.oid OPERATOR(pg_catalog.=) pg_catalog.to_regclass({literal(written)})::pg_catalog.oid"
    )


def view_saved() -> str:
    """Tells every proxy, once the transaction is committed, that there is another view with predictions."""
    return f"SELECT pg_catalog.pg_notify({literal(CHANNEL)}, '')"


def gate_row(action: str, payload: str | None = None) -> bytes:
    """One line to copy into the gate.  `payload` is JSON (or nothing)."""
    return copy_line(action, None if payload is None else ascii_json(payload))


def gate_wait() -> bytes:
    """A line that does nothing, but lets a cancel of the server's own (pg_cancel_backend, statement_timeout) arrive."""
    return gate_row("wait")


def gate_register(record: ModelRecord) -> bytes:
    """A line that does what `register_model` does."""
    return gate_row("register", _payload(record))


def gate_raise(error: ThanoError) -> bytes:
    """A line that fails the string of statements with `error`; only the position is lost, which RAISE cannot set."""
    shown = {"sqlstate": error.sqlstate, "message": error.message, "detail": error.detail, "hint": error.hint}
    cleaned = {key: None if value is None else value.replace("\0", "\ufffd") for key, value in shown.items()}
    return gate_row("raise", json.dumps(cleaned))


def fail_block(error: ThanoError) -> str:
    """A statement that is certain to fail, with `error`.  It needs USAGE on plpgsql, which PUBLIC has unless that was revoked."""
    options = {"ERRCODE": error.sqlstate, "MESSAGE": error.message, "DETAIL": error.detail, "HINT": error.hint}
    using = ", ".join(f"{option} = {literal(value)}" for option, value in options.items() if value is not None)
    return f"DO {literal(f'BEGIN RAISE EXCEPTION USING {using}; END')}"


def not_installed(sqlstate: str, message: str, database: str = "") -> NotInstalled | None:
    """The error to show where PostgreSQL's own, of this SQLSTATE and message, means that the schema is missing or too old."""
    if sqlstate not in MISSING or "thanosql" not in message:
        return None
    place = f'database "{database}"' if database else "this database"
    return NotInstalled(f"{place} has no thanoproxy catalogue, or one that is too old", hint="Run `thanoproxy init` on it.")


def _call(procedure: str, *arguments: str) -> str:
    return f"CALL thanosql.{procedure}({', '.join(arguments)})"


def _text(value: str) -> str:
    return f"{literal(value)}::pg_catalog.text"


def _texts(expressions: Iterable[str]) -> str:
    return f"ARRAY[{', '.join(expressions)}]::pg_catalog.text[]"


def _boolean(value: bool) -> str:
    return "true" if value else "false"


def _payload(record: ModelRecord) -> str:
    fields: dict[str, Any] = msgspec.structs.asdict(record)
    return msgspec.json.encode({**fields, "mac": record.mac.hex()}).decode()
