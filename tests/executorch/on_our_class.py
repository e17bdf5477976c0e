"""Importing this module puts our pass class in the place of ExecuTorch's, for whatever imports that afterwards.

So its passes run from unchanged source, and its own test suites too: `python -m pytest -p tests.executorch.on_our_class PATH`.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType

from retraced_server import retrace

_MODULE = "executorch.exir.pass_base"


class _Loader(importlib.machinery.SourceFileLoader):
    """Loads the module, then changes the names in it that ours has too."""

    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        for name in retrace.__all__:
            if hasattr(module, name):
                setattr(module, name, getattr(retrace, name))


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the one module."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != _MODULE:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.origin is not None:
            spec.loader = _Loader(fullname, spec.origin)
        return spec


if _MODULE in sys.modules:
    raise ImportError(f"{_MODULE} is imported already; import {__name__} before anything of executorch")
sys.meta_path.insert(0, _Finder())
