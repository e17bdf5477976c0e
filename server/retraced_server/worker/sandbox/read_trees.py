"""What a locked-down worker may read: the files that lazy imports, and tracebacks, need."""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType

_INSTALLED = ("stdlib", "platstdlib", "purelib", "platlib")


def read_trees(more: Iterable[Path] = ()) -> tuple[Path, ...]:
    """Return the folders of Python and its installed packages, and of every other package that is imported now.

    Of a module that is in none of them, it is its own file.

    Not the entries of `sys.path`: among them may be a working directory.

    Args:
        more: Folders and files besides.

    Returns:
        Absolute paths without links, none below another.
    """
    paths = [Path(sysconfig.get_path(name)) for name in _INSTALLED]
    paths += more
    for module in list(sys.modules.values()):
        paths += _places(module)
    return _outermost({path.resolve() for path in paths if path.exists()})


def _places(module: ModuleType) -> Iterator[Path]:
    try:
        name = module.__name__
        places = list(getattr(module, "__path__", ()))
        file = getattr(module, "__file__", None)
    except Exception:  # noqa: BLE001 - what is in sys.modules may be anything, with attributes that raise anything
        return
    if "." in name:
        # Below its package.
        return
    if places:
        yield from (Path(place) for place in places if isinstance(place, str))
    elif isinstance(file, str):
        yield Path(file)


def _outermost(paths: set[Path]) -> tuple[Path, ...]:
    return tuple(sorted(path for path in paths if not any(parent in paths for parent in path.parents)))
