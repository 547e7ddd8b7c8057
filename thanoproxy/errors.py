"""Every error of ours, with the SQLSTATE a client sees.

One tree: whatever can go wrong on our side is a `ThanoError`; the class fixes the SQLSTATE and the instance carries the rest of
an ErrorResponse (message, detail, hint, position).  Errors cross the process line as plain fields (`to_fields`/`from_fields`), so a
failure inside a worker reaches the client exactly as if it had been raised beside its socket.

The codes are PostgreSQL's own (https://www.postgresql.org/docs/18/errcodes-appendix.html): drivers map them to exception classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import ClassVar, Self

__all__ = [
    "AdminShutdown",
    "AlreadyExists",
    "ArtifactCorrupt",
    "BadFileFormat",
    "Canceled",
    "ConfigurationError",
    "DataError",
    "DeviceOutOfMemory",
    "DuplicateColumn",
    "DuplicateFile",
    "FeatureNotSupported",
    "FileFailure",
    "FileUnavailable",
    "InsufficientPrivilege",
    "InternalError",
    "InvalidAuthorization",
    "InvalidGrant",
    "InvalidImage",
    "InvalidOption",
    "InvalidPassword",
    "NoData",
    "NoTransaction",
    "NotInstalled",
    "NotRepresentable",
    "NullNotAllowed",
    "ProgramLimitExceeded",
    "ProtocolViolation",
    "ReservedName",
    "SyntaxProblem",
    "ThanoError",
    "TooManyRequests",
    "UndefinedColumn",
    "UndefinedObject",
    "UpstreamUnavailable",
    "WorkerFailure",
    "WrongObjectType",
    "WrongType",
    "writing",
]


class ThanoError(Exception):
    """An error with what a PostgreSQL client expects of one.

    `position` counts characters from 1 in the text the client sent, as field `P` of ErrorResponse does; None where no place in the
    text is to blame.  `row` is the 0-based row of the inner query, where one row is to blame.
    """

    sqlstate: ClassVar[str] = "XX000"
    by_sqlstate: ClassVar[dict[str, type[ThanoError]]] = {}

    def __init__(
        self,
        message: str,
        *,
        detail: str | None = None,
        hint: str | None = None,
        position: int | None = None,
        row: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail
        self.hint = hint
        self.position = position
        self.row = row

    def __init_subclass__(cls) -> None:
        # The first class to claim a code is the one that `from_fields` makes; subclasses that share it stay distinct at home.
        ThanoError.by_sqlstate.setdefault(cls.sqlstate, cls)

    def at(self, position: int) -> Self:
        """The same error, pointing at `position` unless it already points somewhere."""
        if self.position is None:
            self.position = position
        return self

    def to_fields(self) -> dict[str, str | int | None]:
        """The error as plain data, for the other side of a process line."""
        return {
            "sqlstate": self.sqlstate,
            "message": self.message,
            "detail": self.detail,
            "hint": self.hint,
            "position": self.position,
            "row": self.row,
        }

    @staticmethod
    def from_fields(fields: Mapping[str, str | int | None]) -> ThanoError:
        """The inverse of `to_fields`; an unknown SQLSTATE becomes an `InternalError`."""
        cls = ThanoError.by_sqlstate.get(str(fields["sqlstate"]), InternalError)
        position, row = fields.get("position"), fields.get("row")
        detail, hint = fields.get("detail"), fields.get("hint")
        return cls(
            str(fields["message"]),
            detail=None if detail is None else str(detail),
            hint=None if hint is None else str(hint),
            position=None if position is None else int(position),
            row=None if row is None else int(row),
        )

    def __reduce__(self) -> tuple[object, ...]:
        return ThanoError.from_fields, (self.to_fields(),)


class UpstreamUnavailable(ThanoError):
    """08006: the database server cannot be reached, or is gone."""

    sqlstate = "08006"


class ProtocolViolation(ThanoError):
    """08P01: the peer broke the wire protocol."""

    sqlstate = "08P01"


class FeatureNotSupported(ThanoError):
    """0A000: understood, and not offered (yet, or here)."""

    sqlstate = "0A000"


class InvalidGrant(ThanoError):
    """0LP01: a privilege that models do not have."""

    sqlstate = "0LP01"


class DataError(ThanoError):
    """22000: the rows themselves do not allow what was asked, e.g. one class only."""

    sqlstate = "22000"


class NullNotAllowed(ThanoError):
    """22004: a NULL where a value is needed, e.g. a label."""

    sqlstate = "22004"


class NotRepresentable(ThanoError):
    """22021: a name of a file that is no UTF-8, which no text can hold."""

    sqlstate = "22021"


class InvalidOption(ThanoError):
    """22023: an option has the wrong type or lies outside its range."""

    sqlstate = "22023"


class InvalidImage(ThanoError):
    """22P03: bytes that are no image we accept, or one that is damaged."""

    sqlstate = "22P03"


class BadFileFormat(ThanoError):
    """22P04: a file with rows that is malformed."""

    sqlstate = "22P04"


class InvalidAuthorization(ThanoError):
    """28000: the client may not connect in this way."""

    sqlstate = "28000"


class InvalidPassword(ThanoError):
    """28P01: the password is wrong, or nobody has that name (which of the two is not told)."""

    sqlstate = "28P01"


class NotInstalled(ThanoError):
    """3F000: schema thanosql is not in this database."""

    sqlstate = "3F000"


class InsufficientPrivilege(ThanoError):
    """42501: PostgreSQL's rules say no."""

    sqlstate = "42501"


class SyntaxProblem(ThanoError):
    """42601: a statement of ours that is malformed, or an option nobody knows."""

    sqlstate = "42601"


class DuplicateColumn(ThanoError):
    """42701: a column we would add has the name of one that is there."""

    sqlstate = "42701"


class UndefinedColumn(ThanoError):
    """42703: a column that the inner query does not have."""

    sqlstate = "42703"


class InvalidDefinition(ThanoError):
    """42P17: a view calls a function of schema thanosql in a way that no statement of ours makes."""

    sqlstate = "42P17"


class UndefinedParameter(ThanoError):
    """42P02: a parameter where nobody can have given it a value, in a simple Query."""

    sqlstate = "42P02"


class UndefinedObject(ThanoError):
    """42704: no such model, or no such architecture."""

    sqlstate = "42704"


class AlreadyExists(ThanoError):
    """42710: the name is taken."""

    sqlstate = "42710"


class WrongType(ThanoError):
    """42804: a column of a type that cannot hold what it should."""

    sqlstate = "42804"


class WrongObjectType(ThanoError):
    """42809: the object is there, but not of the kind the statement needs."""

    sqlstate = "42809"


class ReservedName(ThanoError):
    """42939: a name that no role can have."""

    sqlstate = "42939"


class DeviceOutOfMemory(ThanoError):
    """53200: not even a batch of one fits."""

    sqlstate = "53200"


class ProgramLimitExceeded(ThanoError):
    """54000: more than can be held at once."""

    sqlstate = "54000"


class TooManyRequests(ThanoError):
    """53400: the admission limit; try again later."""

    sqlstate = "53400"


class Canceled(ThanoError):
    """57014: the user, or statement_timeout, asked to stop."""

    sqlstate = "57014"


class AdminShutdown(ThanoError):
    """57P01: the proxy is being stopped."""

    sqlstate = "57P01"


class WorkerFailure(ThanoError):
    """58000: a worker process died or lost its device."""

    sqlstate = "58000"


class FileUnavailable(ThanoError):
    """58P01: no such file below the roots (nothing is said about anything outside of them)."""

    sqlstate = "58P01"


class FileFailure(ThanoError):
    """58030: a file that cannot be written, or an image that does not arrive."""

    sqlstate = "58030"


@contextmanager
def writing(what: str, *, detail: str | None = None, hint: str | None = None) -> Iterator[None]:
    """Raises `FileFailure` where the block fails to write a file: `what` it was that cannot be kept, and the system's reason."""
    try:
        yield
    except OSError as error:
        raise FileFailure(f"{what}: {error.strerror}", detail=detail, hint=hint) from error


class DuplicateFile(ThanoError):
    """58P02: a file of that name is there already."""

    sqlstate = "58P02"


class ConfigurationError(ThanoError):
    """F0000: a setting is wrong; commands end with exit code 2."""

    sqlstate = "F0000"


class NoData(ThanoError):
    """P0002: the inner query gave no rows where some are needed, or a directory no images."""

    sqlstate = "P0002"


class NoTransaction(ThanoError):
    """25P01: outside a transaction block, what would end with the transaction."""

    sqlstate = "25P01"


class InternalError(ThanoError):
    """XX000: a fault of ours."""

    sqlstate = "XX000"


class ArtifactCorrupt(ThanoError):
    """XX001: weights that are not what their name or signature says."""

    sqlstate = "XX001"
