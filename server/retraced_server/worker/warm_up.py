"""Runs a small program through everything that a job does, so that the first request finds nothing left to import or to build."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import IO, Final

import sympy.sets.setexpr  # noqa: F401 - sympy imports it when it first solves for a size, which the sample does not need

from retraced_server.errors import RetracedError
from retraced_server.passes import catalogue
from retraced_server.pipeline.domain import NodeSelection, TransformOptions
from retraced_server.pipeline.parse import parse_pipeline
from retraced_server.worker.job import run_job
from retraced_server.worker.job_messages import JobEvent, JobRequest, decode_job_request, encode_job_event, encode_job_request
from retraced_server.worker.source import ArchiveFile

SAMPLE_NAME: Final = "warm_up_sample.pt2"

# Both ways to decompose: what cannot be done call by call is left to torch, which imports a good deal for it.
_PIPELINE = "retrace,decompose,decompose{by=torch},cse,dce"


def sample_archive() -> IO[bytes]:
    """Open the archive of a sample program, which `tools/warm_up_sample.py` makes. The caller closes it."""
    return Path(__file__).with_name(SAMPLE_NAME).open("rb")


def warm_up(sample: IO[bytes], pipeline: str = _PIPELINE) -> None:
    """Do the work of a job on a sample program.

    Args:
        sample: Its archive.
        pipeline: The passes.

    Raises:
        RetracedError: Its job failed, so every other would.
    """
    passes = catalogue()
    request = JobRequest("warm-up", parse_pipeline(pipeline, passes), TransformOptions(node_metadata=NodeSelection.ALL))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run_job(decode_job_request(encode_job_request(request), passes), ArchiveFile(sample), _take)


def _take(event: JobEvent) -> None:
    if isinstance(event, RetracedError):
        raise event
    encode_job_event(event)
