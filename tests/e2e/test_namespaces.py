"""A server without any option reads programs with torch's rarer operators, and one that is told to reads more."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator

import pytest
import torch
from torch.export import ExportedProgram

from retraced import Client, EmbeddedServer, errors
from tests.passes.support import export
from tests.support.case import Inputs
from tests.support.compare import assert_same_results, loaded
from tests.support.transforms import RARE_OPERATORS, TRANSFORMS

pytestmark = pytest.mark.slow

Maker = Callable[[], tuple[ExportedProgram, list[Inputs]]]


@pytest.fixture(scope="module")
def plain() -> Iterator[Client]:
    with EmbeddedServer(["--workers", "1"]) as server, Client(server.address) as client:
        yield client


def _saved(program: ExportedProgram) -> bytes:
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("make", [*TRANSFORMS, *RARE_OPERATORS], ids=lambda make: make.__name__)
def test_plain_server_takes_the_program_through_every_pipeline(plain: Client, make: Maker) -> None:
    program, calls = make()
    archive = _saved(program)
    assert plain.transform(archive, "retrace").to_bytes() == archive
    for pipeline in ("cse,dce", "decompose,cse,dce"):
        assert_same_results(program, loaded(plain.transform(archive, pipeline).to_bytes()), calls)


def _random_of_torch() -> bytes:
    def noisy(x: torch.Tensor) -> torch.Tensor:
        return (
            torch.ops.rngprims.philox_rand.default([2, 4], torch.tensor(1), torch.tensor(0), None, "cpu", torch.float32)[0] + x
        )

    return _saved(export(noisy, torch.randn(2, 4)))


def test_server_reads_more_of_torchs_operators_where_its_operator_allows_them(plain: Client, allowing: EmbeddedServer) -> None:
    archive = _random_of_torch()
    with pytest.raises(errors.ProgramUnsupported, match=r"--allow-namespace rngprims"):
        plain.transform(archive, "retrace")
    with Client(allowing.address) as client:
        assert client.transform(archive, "retrace").to_bytes() == archive


def test_server_does_not_start_for_a_namespace_that_nothing_registers() -> None:
    with pytest.raises(errors.RetracedError, match="namespace `mistyped`"), EmbeddedServer(["--allow-namespace", "mistyped"]):
        pass
