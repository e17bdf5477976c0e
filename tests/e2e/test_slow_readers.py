"""Callers that ask for a large output and never read it."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import ExitStack

import grpc
import pytest
import torch
from torch import nn

from retraced import Client, EmbeddedServer
from retraced.v1 import graph_transform_pb2 as pb
from retraced.v1.graph_transform_pb2_grpc import GraphTransformServiceStub
from tests.support.models import by_name
from tests.support.waiting import eventually

from .conftest import server_arguments
from .processes import Observed

pytestmark = pytest.mark.slow

_CHUNK = 1 << 20
_READERS = 6


@pytest.fixture(scope="module")
def impatient() -> Iterator[EmbeddedServer]:
    with EmbeddedServer(server_arguments("--download-idle-timeout", "0.5", "--spool-memory", "0")) as running:
        yield running


def _large() -> bytes:
    """A program with 64 MiB of weights."""
    program = torch.export.export(nn.Linear(4096, 4096, bias=False), (torch.zeros(1, 4096),))
    file = io.BytesIO()
    torch.export.save(program, file)
    return file.getvalue()


def _requests(archive: bytes) -> Iterator[pb.TransformGraphRequest]:
    options = pb.TransformOptions(output=pb.OUTPUT_DELIVERY_ALWAYS)
    yield pb.TransformGraphRequest(spec=pb.TransformSpec(pipeline="retrace", archive_size=len(archive), options=options))
    for offset in range(0, len(archive), _CHUNK):
        yield pb.TransformGraphRequest(archive_chunk=archive[offset : offset + _CHUNK])


def _stalled(server: EmbeddedServer) -> int:
    lines = server.log.splitlines()
    return sum("request failed" in line and "DOWNLOAD_STALLED" in line for line in lines)


def test_callers_that_never_read_free_their_slots_and_hold_no_output(impatient: EmbeddedServer) -> None:
    assert impatient.pid is not None
    observed = Observed(impatient.pid)
    archive = _large()
    with Client(impatient.address) as client, ExitStack() as channels:
        client.transform(archive, "retrace").close()
        before = observed.front_end.memory_full_info().uss
        calls = []
        for number in range(1, _READERS + 1):
            options = [("grpc.use_local_subchannel_pool", 1)]
            channel = channels.enter_context(grpc.insecure_channel(impatient.address, options=options))
            calls.append(GraphTransformServiceStub(channel).TransformGraph(_requests(archive)))
            eventually(lambda: _stalled(impatient) == number, "the call was ended")  # noqa: B023
        eventually(observed.at_rest, "no worker is left")
        # Of each a few messages are on their way, one of them with the front end.
        assert observed.front_end.memory_full_info().uss - before < _READERS * len(archive) / 8
        assert observed.deleted_files() == []
        # They are all still there, and another caller is served.
        assert all(call.is_active() for call in calls)
        assert client.transform(by_name("input_and_id").archive, "retrace").modified is False
