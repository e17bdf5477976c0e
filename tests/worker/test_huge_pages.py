"""The zygote's memory lies in huge pages, so that forks are quick."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import kernel

from .zygotes import zygote

pytestmark = pytest.mark.slow

_COLLAPSED = """
import mmap
from pathlib import Path
from retraced_server.worker.huge_pages import collapse_memory

block = bytes(range(256)) * 4096
memory = mmap.mmap(-1, 16 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for offset in range(0, len(memory), len(block)):
    memory[offset:offset + len(block)] = block
collapse_memory()
assert memory[:] == block * 16
print(Path("/proc/self/smaps_rollup").read_text())
"""


def _megabytes(rollup: str, name: str) -> int:
    found = re.search(rf"^{name}:\s*(\d+) kB", rollup, re.MULTILINE)
    assert found is not None
    return int(found[1]) >> 10


@pytest.mark.skipif(kernel() < (6, 1), reason="only Linux 6.1 collapses memory")
def test_memory_is_moved_into_huge_pages_with_what_it_holds() -> None:
    rollup = subprocess.run([sys.executable, "-c", _COLLAPSED], stdout=subprocess.PIPE, text=True, check=True).stdout
    assert _megabytes(rollup, "AnonHugePages") >= 14
    with zygote() as running:
        running.event()
        rollup = Path(f"/proc/{running.process.pid}/smaps_rollup").read_text()
    assert _megabytes(rollup, "AnonHugePages") > _megabytes(rollup, "Anonymous") / 2
