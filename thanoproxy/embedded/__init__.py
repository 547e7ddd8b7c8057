"""A PostgreSQL of our own, for `serve --embedded`, `demo` and the tests."""

from thanoproxy.embedded.binaries import shipped_psql
from thanoproxy.embedded.cluster import OWNER
from thanoproxy.embedded.folder import password_path, temporary_directory
from thanoproxy.embedded.server import EmbeddedPostgres

__all__ = ["OWNER", "EmbeddedPostgres", "password_path", "shipped_psql", "temporary_directory"]
