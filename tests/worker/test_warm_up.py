"""The warm-up leaves nothing to import, so that a first request is as fast as the tenth."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.models import by_name

pytestmark = pytest.mark.slow

_SOURCE = """
import sys
from retraced_server.passes import catalogue
from retraced_server.pipeline.domain import NodeSelection, TransformOptions
from retraced_server.pipeline.parse import parse_pipeline
from retraced_server.worker.job import run_job
from retraced_server.worker.job_messages import JobDone, JobRequest, encode_job_event
from retraced_server.worker.source import ArchiveFile
from retraced_server.worker.warm_up import sample_archive, warm_up

with sample_archive() as sample:
    warm_up(sample)
before = set(sys.modules)
events = []
for path in sys.argv[1:]:
    with open(path, "rb") as file:
        pipeline = parse_pipeline("retrace,decompose,cse,dce", catalogue())
        request = JobRequest("id", pipeline, TransformOptions(node_metadata=NodeSelection.ALL))
        run_job(request, ArchiveFile(file), lambda event: events.append(event) or encode_job_event(event))
    assert isinstance(events[-1], JobDone), events[-1]
print(*sorted(set(sys.modules) - before))
"""


def test_job_after_the_warm_up_imports_nothing(tmp_path: Path) -> None:
    paths = []
    for name in ("everything", "llama", "residual_net"):
        (path := tmp_path / f"{name}.pt2").write_bytes(by_name(name).archive)
        paths.append(str(path))
    ran = subprocess.run([sys.executable, "-c", _SOURCE, *paths], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == []
