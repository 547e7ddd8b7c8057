"""Folders for what lasts no longer than the process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from thanoproxy.workers.scratch import Scratch, remove_abandoned

MAKE = """
import os, signal, sys
from thanoproxy.workers.scratch import Scratch
folder = Scratch(sys.argv[1])
open(folder.path + "/spool", "w").close()
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", MAKE, str(tmp_path)], check=False)
    (abandoned,) = tmp_path.iterdir()
    ours = Scratch(str(tmp_path))
    (tmp_path / "thanoproxy-elses").mkdir()  # made by something else
    (tmp_path / "thanoproxy-link").symlink_to(abandoned)
    remove_abandoned(str(tmp_path))
    assert abandoned.is_dir(), "it might be one that is just being made"
    remove_abandoned(str(tmp_path), young=-1)
    assert {path.name for path in tmp_path.iterdir()} == {os.path.basename(ours.path), "thanoproxy-elses", "thanoproxy-link"}
    ours.remove()
    assert not os.path.exists(ours.path)


def test_a_child_that_outlives_us_does_not_keep_the_folder(tmp_path: Path) -> None:
    folder = Scratch(str(tmp_path))
    with subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE) as child:
        os.close(folder._lock)  # as a process that ends
        remove_abandoned(str(tmp_path), young=-1)
        assert not os.path.exists(folder.path)
        assert child.stdin is not None
        child.stdin.close()
