"""The environment of workers: an allow-list, and nothing left of the rest in memory."""

from __future__ import annotations

import os
import posix

from retraced_server.worker import _libc

_NAMES = frozenset({"HOME", "LANG", "LANGUAGE", "TZ", "USER", "LOGNAME", "TMPDIR", "PATH", "CUDA_VISIBLE_DEVICES"})
_PREFIXES = ("LC_", "PYTHON", "TORCH", "MALLOC_", "OMP_", "MKL_", "OPENBLAS_", "NUMEXPR_", "RETRACED_PASS_")


def clean() -> tuple[str, ...]:
    """Remove every variable of this process that is not on the list, and overwrites its value in memory.

    Variables are inherited by what is forked, so this is for the zygote, once its modules are imported. An operator's passes read theirs
    from variables that begin with `RETRACED_PASS_`.

    Returns:
        The names that were removed.
    """
    removed = tuple(name for name in os.environ if name not in _NAMES and not name.startswith(_PREFIXES))
    _libc.zero_environment_strings(frozenset(map(os.fsencode, os.environ)) - frozenset(map(os.fsencode, removed)))
    for name in removed:
        del os.environ[name]
        # Python's copy from when it started.
        posix.environ.pop(os.fsencode(name), None)
    return removed
