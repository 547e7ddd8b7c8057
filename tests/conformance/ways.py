"""The two ways to a server of which the results are compared."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.conformance.distribution import Distribution
from tests.conformance.servers import HOST, OWNER, running_cluster, running_proxy
from thanoproxy.embedded.account import Account

__all__ = ["WAYS", "serving"]

WAYS = ("direct", "proxy")


@contextmanager
def serving(way: str, made: Distribution, account: Account) -> Iterator[int]:
    """A new cluster, and for "proxy" one in front of it; yields the port that clients use."""
    with tempfile.TemporaryDirectory(prefix="thanoproxy-conformance-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o711)
        with running_cluster(made, account, folder) as port:
            if way == "direct":
                yield port
                return
            with running_proxy(f"postgresql://{OWNER}@{HOST}:{port}/{OWNER}", folder) as front:
                yield front
