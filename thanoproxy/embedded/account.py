"""Which system user PostgreSQL runs as, and whether that user can reach what it needs.

PostgreSQL refuses to run as root.  As root we start it as a system user; as anybody else, as ourselves.  No folder's mode is ever
changed: where the user cannot reach a folder, the operator is told which one.
"""

from __future__ import annotations

import os
import pwd
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thanoproxy.errors import ConfigurationError

__all__ = ["Account", "account_for", "unreachable"]

SYSTEM_USERS = ("postgres", "thanoproxy", "nobody")
"""In this order: the one made for PostgreSQL, the one our own packages make, the one that every system has."""


@dataclass(frozen=True)
class Account:
    """The user that owns the cluster; `other` says that it is not the user who runs us."""

    name: str
    uid: int
    gid: int
    other: bool

    def popen_arguments(self) -> dict[str, Any]:
        """What `subprocess` needs to start a program as this user (supplementary groups of root are dropped, too)."""
        if not self.other:
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}

    def own(self, path: Path) -> None:
        """Give `path`, which we have just made, to this user."""
        if self.other:
            os.chown(path, self.uid, self.gid)


def _of(entry: pwd.struct_passwd, *, other: bool) -> Account:
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid, other)


def account_for(data: Path) -> Account:
    """The owner of an existing cluster in `data`; for a new one ourselves, or a system user where we are root.

    Raises `ConfigurationError` where the cluster belongs to somebody we may not act for.
    """
    me = os.geteuid()
    if data.exists():
        owner = data.stat().st_uid
        if owner == 0 or me not in (0, owner):
            raise ConfigurationError(f"--embedded: the cluster {data} belongs to user id {owner}, which cannot be used to run it")
        try:
            return _of(pwd.getpwuid(owner), other=owner != me)
        except KeyError:
            return Account(str(owner), owner, data.stat().st_gid, owner != me)
    if me != 0:
        try:
            return _of(pwd.getpwuid(me), other=False)
        except KeyError:  # containers often run under a number that has no name
            return Account(str(me), me, os.getegid(), False)
    for name in SYSTEM_USERS:
        try:
            return _of(pwd.getpwnam(name), other=True)
        except KeyError:
            continue
    raise ConfigurationError(f"--embedded as root needs one of the system users {', '.join(SYSTEM_USERS)} to run PostgreSQL as")


def unreachable(path: Path, account: Account) -> Path | None:
    """The first step on the way to `path`, itself included, that `account` may not enter or execute; None if all is well.

    What is not there yet is no obstacle.

    The kernel is asked (by a shell running as that user), since modes alone leave out access lists and read-only namespaces.
    """
    if not account.other:
        return None
    steps = [str(step) for step in (*reversed(path.parents), path)]
    script = 'for step; do [ ! -e "$step" ] || [ -x "$step" ] || { printf %s "$step"; exit 1; }; done'
    tried = subprocess.run(
        ["/bin/sh", "-c", script, "sh", *steps], capture_output=True, text=True, check=False, cwd="/", **account.popen_arguments()
    )
    return Path(tried.stdout) if tried.returncode and tried.stdout else None
