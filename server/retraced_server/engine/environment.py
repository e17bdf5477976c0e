"""What the zygote and its workers inherit: the little they need of the server's environment, which may hold secrets."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

_NAMES = frozenset({"PATH", "HOME", "LANG", "LANGUAGE", "TZ", "VIRTUAL_ENV", "USER", "LOGNAME"})
_PREFIXES = ("LC_", "PYTHON", "LD_", "TORCH", "MALLOC_", "RETRACED_PASS_")
# One thread each, which is all that a fork copies and all that a worker is to use; the same hashes in every process, so that nothing
# that depends on them differs between two runs; the switch that keeps grpc, should it ever be loaded, from handling forks; and how many
# results each function of sympy remembers: its own 1,000 are too few for what the zygote has it reason about before the first job.
_SET = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "NUMEXPR_NUM_THREADS": "1",
    "PYTHONHASHSEED": "0",
    "SYMPY_CACHE_SIZE": "4000",
    "GRPC_ENABLE_FORK_SUPPORT": "0",
    "CUDA_VISIBLE_DEVICES": "",
}


def zygote_environment(server: Mapping[str, str], temporary: Path) -> dict[str, str]:
    """Make the environment of the zygote.

    Args:
        server: The server's own.
        temporary: Where its temporary files go.
    """
    kept = {name: value for name, value in server.items() if name in _NAMES or name.startswith(_PREFIXES)}
    return {**kept, **_SET, "TMPDIR": str(temporary)}
