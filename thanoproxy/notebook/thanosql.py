"""Installed as the top-level module `thanosql`, the name that ThanoSQL's notebooks load with `%load_ext thanosql`."""

from thanoproxy.notebook import load_ipython_extension, unload_ipython_extension

__all__ = ["load_ipython_extension", "unload_ipython_extension"]
