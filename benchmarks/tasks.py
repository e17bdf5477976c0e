"""The tasks: each done by stock torch in process, and by retraced."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch._export.pass_base import _ExportPassBaseDeprecatedDoNotUse
from torch.export import ExportedProgram

from retraced import Client
from retraced_server.passes import run_pipeline

DECOMPOSE = "decompose{table=core-aten}"


class StockNoOp(_ExportPassBaseDeprecatedDoNotUse):
    """The stock pass class with no hook overridden: it retraces, and changes nothing."""


@dataclass(frozen=True)
class Task:
    """One thing to do, and the two ways of doing it."""

    name: str
    stock: Callable[[], object]
    retraced: Callable[[], object]


def tasks(program: ExportedProgram, archive: bytes, client: Client) -> Iterator[Task]:
    """Yields the tasks for one program.

    Args:
        program: The program.
        archive: What `torch.export.save` writes of it.
        client: Of a server on this machine.
    """

    def stock_passes(count: int) -> object:
        return program._transform_do_not_use(*(StockNoOp() for _ in range(count)))

    def stock_request(transform: Callable[[ExportedProgram], ExportedProgram]) -> bytes:
        loaded = torch.export.load(io.BytesIO(archive))
        output = io.BytesIO()
        torch.export.save(transform(loaded), output)
        return output.getvalue()

    def request(pipeline: str) -> bytes:
        return client.transform(archive, pipeline).to_bytes()

    yield Task("one no-op pass", lambda: stock_passes(1), lambda: run_pipeline(program, "retrace", mode="full"))
    yield Task(
        "ten no-op passes",
        lambda: stock_passes(10),
        lambda: run_pipeline(program, ",".join(["retrace"] * 10), mode="full"),
    )
    yield Task(
        "request: no-op pass",
        lambda: stock_request(lambda loaded: loaded._transform_do_not_use(StockNoOp())),
        lambda: request("retrace"),
    )
    yield Task(
        "request: decompose",
        lambda: stock_request(lambda loaded: loaded.run_decompositions(torch.export.default_decompositions())),
        lambda: request(DECOMPOSE),
    )
