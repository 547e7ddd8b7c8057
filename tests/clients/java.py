"""Java programs of this folder, compiled and run with pgjdbc."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict

from tests.clients.conftest import run_client

__all__ = ["compiled", "run_java"]

JAR = Path(os.environ.get("THANOPROXY_TEST_PGJDBC") or "/usr/share/java/postgresql.jar")
LIGHT = ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Dfile.encoding=UTF-8", "-Dstdout.encoding=UTF-8"]


def compiled(source: Path, folder: Path) -> Path:
    """Compile a program into the folder, which is returned; skips where there is nothing to do that with."""
    if not JAR.exists():
        pytest.skip("pgjdbc is not installed (Debian: libpostgresql-jdbc-java)")
    if shutil.which("javac") is None:
        pytest.skip("there is no JDK")
    done = run_client(["javac", "-encoding", "UTF-8", "-cp", str(JAR), "-d", str(folder), str(source)])
    assert done.returncode == 0, done.stderr
    return folder


def run_java(classes: Path, program: str, url: str, *args: str, stdin: str = "") -> str:
    """What a program prints; its arguments are the address, the user, the password, and `args`."""
    parts = conninfo_to_dict(url)
    address = f"jdbc:postgresql://{parts['host']}:{parts['port']}/{parts['dbname']}"
    command = ["java", *LIGHT, "-cp", f"{classes}{os.pathsep}{JAR}", program, address, str(parts["user"]), str(parts["password"]), *args]
    done: subprocess.CompletedProcess[str] = run_client(command, stdin=stdin)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
