"""Which tests run in one process, one after the other, where several processes run tests."""

from __future__ import annotations

import re
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

#: Folders whose tests share servers, or other processes, that take long to start.
_FOLDERS = ("tests/e2e/", "tests/engine/", "tests/program/hostile/", "tests/worker/sandbox/")
#: Programs that take seconds to export and to decompose; the process that has all tests of one does it once.
_PROGRAMS = ("llama_like", "t5", "whisper", "llama", "bert", "gpt2", "vit", "residual_net_train", "residual_net")
#: What takes longest begins first, so that at the end no process waits for another.
_FIRST = (
    *(
        "tests/e2e/",
        "tests/engine/",
        "t5",
        "whisper",
        "llama",
        "tests/fuzz/test_runs.py",
        "tests/benchmarks/test_benchmarks.py",
    ),
    *("tests/packaging/test_snippets.py", "tests/packaging/test_install.py", "tests/program/hostile/", "bert", "gpt2", "vit"),
    *("tests/worker/sandbox/", "tests/worker/test_zygote_start.py", "tests/retrace/test_incremental_growth.py"),
    *("tests/worker/test_symbolic_caches.py", "tests/worker/test_zygote.py"),
)

_PROGRAM = re.compile(rf"[\[-]({'|'.join(_PROGRAMS)})(?=[\]-])")


def group(nodeid: str) -> str:
    """Return what a test is run together with: a program that is expensive, a folder that shares servers, or its file."""
    if program := _PROGRAM.search(nodeid):
        return program[1]
    return next((folder for folder in _FOLDERS if nodeid.startswith(folder)), nodeid.partition("::")[0])


def rank(nodeid: str) -> int:
    """Return when a test's group begins; the lowest first."""
    name = group(nodeid)
    return _FIRST.index(name) if name in _FIRST else len(_FIRST)


class Together(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
    """Gives each process whole groups, in the order in which they were collected."""

    def __init__(self, config: pytest.Config, log: Any) -> None:
        config.option.loadscopereorder = False
        super().__init__(config, log)

    def _split_scope(self, nodeid: str) -> str:
        return group(nodeid)
