"""The sandbox is in nobody's way: programs of real architectures come out of a locked-down worker as they do out of any other."""

from __future__ import annotations

import hashlib
import io
import os
import random
from typing import IO

import pytest

from retraced_server.errors import RetracedError
from retraced_server.passes import run_pipeline
from retraced_server.program import read_program, write_program
from retraced_server.worker.sandbox import ResourceLimits
from tests.support.models import by_name
from tests.worker.sandbox.attempts import Opened
from tests.worker.sandbox.host import Host

pytestmark = pytest.mark.slow

PIPELINES = ("retrace", "decompose")
_LIMITS = ResourceLimits(memory_bytes=4 << 30, cpu_seconds=600)


class InMemory:
    """Puts an archive into a file in memory, as the server hands it to a worker."""

    def __init__(self, archive: bytes) -> None:
        self._archive = archive

    def __call__(self) -> Opened:
        fd = os.memfd_create("archive", os.MFD_CLOEXEC)
        with os.fdopen(os.dup(fd), "wb") as file:
            file.write(self._archive)
        return Opened(fd)


def transform(archive: Opened) -> list[str]:
    """What jobs do: read, run passes, write. Gives what each pipeline made of the program, or why it could not."""
    random.seed(0)
    with open(archive.fd, "rb") as file:
        return [outcome_of(file, pipeline) for pipeline in PIPELINES]


def outcome_of(file: IO[bytes], pipeline: str) -> str:
    read = read_program(file)
    try:
        result = run_pipeline(read.program, pipeline)
    except RetracedError as error:
        return error.message
    output = io.BytesIO()
    write_program(result.program, output, name=read.name, records=read.carried())
    nodes = [node.format_node() or "" for node in result.program.graph.nodes]
    return "\n".join((hashlib.sha256(output.getvalue()).hexdigest(), *nodes))


@pytest.mark.parametrize("name", ["llama", "vit", "residual_net"])
def test_a_real_program_is_transformed_as_without_the_sandbox(host: Host, name: str) -> None:
    make = InMemory(by_name(name).archive)

    locked = host.run(transform, before=make, limits=_LIMITS)

    assert (locked.violation, locked.error) == (None, "")
    assert locked == host.run(transform, before=make, locked=False)
