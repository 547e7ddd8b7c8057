"""A PostgreSQL of our own, for `serve --embedded`, `demo` and the tests."""

from thanoproxy.embedded.server import EmbeddedPostgres, temporary_directory

__all__ = ["EmbeddedPostgres", "temporary_directory"]
