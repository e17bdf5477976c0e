"""Jobs with the sandbox and without it, in forks of a zygote's process: `python -m benchmarks.sandboxed_jobs PIPELINE ROUNDS ARCHIVE...`.

A process of its own, with one thread, made ready as the zygote makes itself ready. Prints JSON: for each archive the best processor time in
milliseconds of a job in the sandbox, of one without, and of what a worker does of the locking down before it has a job; and whether both
gave the same program.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from functools import partial
from pathlib import Path
from typing import IO

from retraced.v1 import graph_transform_pb2 as pb
from retraced_server.errors import RetracedError
from retraced_server.passes import catalogue
from retraced_server.pipeline.parse import parse_pipeline
from retraced_server.program import hold_map, hold_page_map
from retraced_server.worker.job import run_job
from retraced_server.worker.job_messages import JobEvent, JobRequest
from retraced_server.worker.prepare import prepare
from retraced_server.worker.prepared import Prepared
from retraced_server.worker.sandbox import ResourceLimits, SandboxConfig
from retraced_server.worker.sandbox.children import in_child
from retraced_server.worker.source import ArchiveFile

_MEMORY_BYTES, _CPU_SECONDS = 8 << 30, 600


def main(pipeline: str, rounds: str, *paths: str) -> None:
    """Run the job on each archive, with and without by turns, and print what it took."""
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
    with path.open("rb") as archive:
        return tuple(json.loads(in_child(partial(_run, prepared, pipeline, archive, locked), name="the job")))


def _run(prepared: Prepared, pipeline: str, archive: IO[bytes], locked: bool) -> str:
    start = time.process_time()
    lockdown = prepared.sandbox.begin_lockdown(open_descriptors=(archive.fileno(), hold_page_map())) if locked else None
    ahead = time.process_time() - start
    prepared.written.copy()
    digest = hashlib.sha256()

    def take(event: JobEvent) -> None:
        if isinstance(event, RetracedError):
            raise event
        if isinstance(event, bytes):
            digest.update(pb.TransformGraphResponse.FromString(event).output_chunk)

    hold_map(archive.fileno())
    start = time.process_time()
    if lockdown is not None:
        lockdown.complete(ResourceLimits(memory_bytes=_MEMORY_BYTES, cpu_seconds=_CPU_SECONDS))
    run_job(JobRequest("job", parse_pipeline(pipeline, catalogue())), ArchiveFile(archive), take)
    return json.dumps([(time.process_time() - start) * 1e3, ahead * 1e3, digest.hexdigest()])


if __name__ == "__main__":
    main(*sys.argv[1:])
