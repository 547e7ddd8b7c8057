"""What `thanoproxy` can do, one file for each command.

A command's module has `HELP`, `arguments(parser)` and `run(args) -> exit code`: 0 fine, 1 failed, 2 wrong usage or configuration.
Errors of ours that `run` raises are shown by `thanoproxy.cli`.
"""

from thanoproxy.commands import check, demo, init, psql, serve, sweep

COMMANDS = {"serve": serve, "init": init, "check": check, "demo": demo, "psql": psql, "sweep": sweep}
