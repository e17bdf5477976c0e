"""A client in a process of its own, without torch: `python -m benchmarks.batch ADDRESS ARCHIVE PIPELINE COUNT` prints seconds."""

from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from retraced import Client

# As many as keep two workers busy, with one waiting for each.
_AT_A_TIME = 4


def main(address: str, path: str, pipeline: str, count: str) -> None:
    """Send the same request over and over, a few at a time, and print how long all took."""
    archive = Path(path).read_bytes()
    with Client(address) as client, ThreadPoolExecutor(_AT_A_TIME) as threads:
        client.info()
        start = time.perf_counter()
        for result in threads.map(lambda _: client.transform(archive, pipeline), range(int(count))):
            result.close()
        print(time.perf_counter() - start)


if __name__ == "__main__":
    main(*sys.argv[1:])
