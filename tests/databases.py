"""Databases for tests, in the one PostgreSQL that a test run starts."""

from __future__ import annotations

import itertools
import secrets
from dataclasses import dataclass

import psycopg

from thanoproxy.embedded import EmbeddedPostgres

__all__ = ["Database", "numbers"]

numbers = itertools.count(1)


@dataclass(frozen=True)
class Database:
    """One database of the test server, and what it takes to connect to it."""

    postgres: EmbeddedPostgres
    name: str

    @property
    def url(self) -> str:
        """As the superuser."""
        return self.url_of("postgres", self.postgres.password)

    def url_of(self, role: str, password: str) -> str:
        return f"postgresql://{role}:{password}@127.0.0.1:{self.postgres.port}/{self.name}"

    def add_role(self, prefix: str = "role", *, attributes: str = "LOGIN") -> tuple[str, str]:
        """A new role, as (its name, the URL to connect as it).  Roles belong to the server, so names are never used twice."""
        name, password = f"{prefix}_{next(numbers)}", secrets.token_hex(8)
        self.execute(f"CREATE ROLE {name} {attributes} PASSWORD '{password}'")
        return name, self.url_of(name, password)

    def execute(self, *statements: str) -> None:
        """Run statements as the superuser, each in its own transaction."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement)
