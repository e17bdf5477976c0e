"""Pages that every job writes to are copied ahead."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.processes import kernel

pytestmark = pytest.mark.slow

_COPIED = """
import mmap, os, re
from retraced_server.worker.huge_pages import collapse_memory
from retraced_server.worker.written_pages import WrittenPages

size = 16 << 20
block = bytes(range(256)) * (size // 256)
memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory[:] = block
collapse_memory()

def own():
    return int(re.search(r"Private_Dirty: *(\\d+)", open("/proc/self/smaps_rollup").read())[1]) >> 2

def work():
    for page in range(0, size, 64 << 10):
        memory[page] = 7

written = WrittenPages(work)
assert memory[:] == block, "what was tried is seen"
assert written.count >= size // (64 << 10), written.count
if os.fork() == 0:
    before = own()
    written.copy()
    print(own() - before, flush=True)
    os._exit(0 if memory[:] == block else 1)
assert os.wait()[1] == 0
"""


@pytest.mark.skipif(kernel() < (5, 14), reason="only Linux 5.14 copies pages ahead")
def test_pages_that_jobs_write_to_are_copied_ahead_as_they_were() -> None:
    ran = subprocess.run([sys.executable, "-c", _COPIED], stdout=subprocess.PIPE, text=True, check=True)
    assert int(ran.stdout) >= 256
