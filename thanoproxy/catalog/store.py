"""The catalogue in SQL, to be sent on the client's own connection, in its own transaction, with its own rights.  Text in, text out.

Those sessions are the users': every name and every operator is qualified, every literal is `quote.literal`'s, and what comes back
for our own use is ASCII, whatever the client's encoding.  None of it has parameters, so it fits both protocols.
"""

from __future__ import annotations

import binascii
import json
from collections.abc import Sequence
from typing import Any

import msgspec

from thanoproxy.catalog.quote import ascii_json, copy_line, literal
from thanoproxy.catalog.records import ModelRecord
from thanoproxy.catalog.saved import CHANNEL
from thanoproxy.errors import InternalError, NotInstalled, ThanoError

__all__ = [
    "GATE",
    "drop_model",
    "fail_block",
    "find_model",
    "gate_raise",
    "gate_register",
    "gate_row",
    "gate_wait",
    "list_models",
    "not_installed",
    "read_model",
    "register_model",
    "reserve_model",
    "saved_rows",
    "saved_views",
    "view_saved",
]

GATE = "COPY thanosql.gate (action, payload) FROM STDIN"
"""Opens the gate; `gate_row` and its like are what may be copied in."""

# Column of thanosql.model_version -> field of ModelRecord, where the value needs no help on its way into JSON.
FIELDS = ("name", "version", "owner", "architecture", "artifact", "classes", "options", "metrics", "images", "size_bytes")
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
)

# SQLSTATE and what the message names, where the schema is missing: 42P01 undefined_table, 3F000 invalid_schema_name, 42883
# undefined_function.
MISSING = {"42P01", "3F000", "42883"}


def find_model(name: str, version: int | None = None) -> str:
    """A query for one version of a model, or the latest: at most one row, whose one column `read_model` understands."""
    pairs = ", ".join(f"'{field}', v.{field}" for field in FIELDS)
    document = f"pg_catalog.json_build_object({pairs}, 'mac', pg_catalog.encode(v.mac, 'hex'))::pg_catalog.text"
    column = f"pg_catalog.encode(pg_catalog.convert_to({document}, 'UTF8'), 'hex') AS model"
    wanted = f"v.name OPERATOR(pg_catalog.=) {literal(name)}::pg_catalog.text"
    if version is not None:
        wanted += f" AND v.version OPERATOR(pg_catalog.=) {version:d}"
    return f"SELECT {column} FROM thanosql.model_version v WHERE {wanted} ORDER BY v.version DESC LIMIT 1"  # noqa: S608


def read_model(payload: str | bytes) -> ModelRecord:
    """What `find_model` found.  Its seal is not checked here."""
    try:
        fields = json.loads(bytes.fromhex(payload if isinstance(payload, str) else payload.decode("ascii")))
        fields["mac"] = binascii.unhexlify(fields["mac"])
        return msgspec.convert(fields, ModelRecord)
    except (ValueError, TypeError, KeyError) as error:
        raise InternalError(f"the catalogue holds a model that cannot be read: {error}") from error


def reserve_model(name: str, overwrite: bool) -> str:
    """A query for the `owner` and `version` that a BUILD of this name would have, both as text.

    Fails with 42710 (taken), 42501 (another role's), 55P03 (being built by another session), 25006 (read only).  Writes nothing.
    """
    call = f"thanosql.reserve_model({literal(name)}::pg_catalog.text, {'true' if overwrite else 'false'})"
    return f"SELECT r.owner, r.version::pg_catalog.text AS version FROM {call} r"  # noqa: S608


def register_model(record: ModelRecord) -> str:
    """Writes the row of a sealed record.  Fails with 42710 or 42501, as `reserve_model` does."""
    return f"SELECT thanosql.register_model({literal(_payload(record))}::pg_catalog.jsonb)"


def drop_model(name: str, if_exists: bool) -> str:
    """Removes a model with all of its versions.  Fails with 42704 (no such model) or 42501 (another role's)."""
    return f"CALL thanosql.drop_model({literal(name)}::pg_catalog.text, {'true' if if_exists else 'false'})"


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


def _payload(record: ModelRecord) -> str:
    fields: dict[str, Any] = msgspec.structs.asdict(record)
    return msgspec.json.encode({**fields, "mac": record.mac.hex()}).decode()
