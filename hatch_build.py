"""Compiles the modules that every relayed byte passes through, from their own sources, where a C compiler is at hand.

Without one the same modules run as they are.  The `.pxd` beside each module gives Cython its types; the Python source has none of
Cython in it.  The two `.pyx` are the exceptions: each does in C what a few methods beside it do in Python.
"""

from __future__ import annotations

import shutil
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

MODULES = (
    "thanoproxy/wire/framing.py",
    "thanoproxy/wire/search.pyx",
    "thanoproxy/session/transport.py",
    "thanoproxy/session/polled.pyx",
)


class CompileHotPath(BuildHookInterface):  # type: ignore[type-arg]
    """Puts the compiled modules beside their sources and, for a wheel, into it."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel" or shutil.which("cc") is None:
            return
        try:
            built = compile_modules(Path(self.root))
        except Exception as problem:  # a broken compiler must not break the installation
            self.app.display_warning(f"the hot path stays in Python: {problem}")
            return
        if version != "editable":
            build_data["force_include"].update({str(path): str(path.relative_to(self.root)) for path in built})
        build_data["pure_python"] = False
        build_data["infer_tag"] = True


def compile_modules(root: Path) -> list[Path]:
    """The extension modules of `MODULES`, built in place."""
    from Cython.Build import cythonize
    from setuptools import Distribution, Extension

    names = [name.rpartition(".")[0] for name in MODULES]
    sources = [str(root / name) for name in MODULES]
    extensions = [
        Extension(name.replace("/", "."), [source], extra_compile_args=["-O2"]) for name, source in zip(names, sources, strict=True)
    ]
    directives = {"language_level": 3, "boundscheck": False, "wraparound": False, "annotation_typing": False}
    modules = cythonize(extensions, build_dir=str(root / "build"), quiet=True, include_path=[str(root)], compiler_directives=directives)
    command = Distribution({"ext_modules": modules}).get_command_obj("build_ext")
    command.inplace = False
    command.build_lib = str(root)
    command.build_temp = str(root / "build")
    command.ensure_finalized()
    command.run()
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    return [root / (name + suffix) for name in names]
