"""Jobs with the sandbox and without it, in forks of a zygote's process: `python -m benchmarks.enclosed PIPELINE ROUNDS ARCHIVE...`.

A process of its own, with one thread, made ready as the zygote makes itself ready. Prints JSON: for each archive the best processor time in
milliseconds of a job in the sandbox, of one without, and of what a worker does of the locking down before it has a job; and whether both
gave the same program.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from pathlib import Path

from retraced.v1 import graph_transform_pb2 as pb
from retraced_server.errors import RetracedError
from retraced_server.pipeline.domain import TransformRequest
from retraced_server.program import hold_page_map
from retraced_server.worker.job import run_job
from retraced_server.worker.messages import JobEvent, JobRequest
from retraced_server.worker.prepare import Prepared, prepare
from retraced_server.worker.sandbox import Limits, SandboxConfig

_MEMORY_BYTES, _CPU_SECONDS = 8 << 30, 600


def main(pipeline: str, rounds: str, *paths: str) -> None:
    """Runs the job on each archive, with and without by turns, and prints what it took."""
    prepared = prepare([], SandboxConfig())
    found = []
    for path in paths:
        pairs = [
            [_in_fork(prepared, pipeline, Path(path), locked=locked) for locked in (True, False)]
            for _ in range(int(rounds) + 1)
        ]
        best = [min(run[0] for run in runs) for runs in zip(*pairs, strict=True)]
        ahead = min(locked[1] for locked, _ in pairs)
        found.append([*best, ahead, len({run[2] for pair in pairs for run in pair}) == 1])
    print(json.dumps(found))


def _in_fork(prepared: Prepared, pipeline: str, path: Path, *, locked: bool) -> tuple[float, float, str]:
    reading, writing = os.pipe()
    with path.open("rb") as archive:
        pid = os.fork()
        if pid == 0:
            try:
                fds = (writing, archive.fileno(), hold_page_map())
                start = time.process_time()
                enclosed = prepared.sandbox.enclose(keep=fds) if locked else None
                ahead = time.process_time() - start
                prepared.written.copy()
                digest = hashlib.sha256()

                def take(event: JobEvent) -> None:
                    if isinstance(event, RetracedError):
                        raise event
                    if isinstance(event, bytes):
                        digest.update(pb.TransformGraphResponse.FromString(event).output_chunk)

                start = time.process_time()
                if enclosed is not None:
                    enclosed.seal(Limits(memory_bytes=_MEMORY_BYTES, cpu_seconds=_CPU_SECONDS))
                run_job(JobRequest("job", TransformRequest(pipeline, os.fstat(archive.fileno()).st_size), 0.0), archive, take)
                took = time.process_time() - start
                os.write(writing, json.dumps([took * 1e3, ahead * 1e3, digest.hexdigest()]).encode())
            finally:
                os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as answer:
        took, ahead, said = json.loads(answer.read())
    os.waitpid(pid, 0)
    return took, ahead, said


if __name__ == "__main__":
    main(*sys.argv[1:])
