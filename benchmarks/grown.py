"""Programs that grow, and what is done with programs in processes of their own."""

from __future__ import annotations

import gc
import io
import logging
import time
import warnings
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO, cast

import torch

from benchmarks.measure import seconds
from benchmarks.passes import Rewriting
from benchmarks.private_memory import peak_beyond
from retraced_server.passes import run_pipeline
from retraced_server.pipeline.domain import NodeSelection
from retraced_server.program import read_program, write_program
from retraced_server.retrace import ExportPass
from retraced_server.worker.describe_nodes import describe_nodes
from tests.support.large_graphs import (
    as_program,
    deep_chain,
    layers,
    many_expressions,
    many_subgraphs,
    many_symbols,
    wide_fan_out,
    wide_graph,
)

KINDS = {
    "deep chains": deep_chain,
    "wide graphs": wide_graph,
    "wide fan-out": wide_fan_out,
    "expressions": many_expressions,
    "unbacked symbols": many_symbols,
    "subgraphs": many_subgraphs,
}
LAYERS = "layers"
DECOMPOSE, STOCK_DECOMPOSE = "decompose", "run_decompositions"
TASKS = ("read", "no-op", "incremental", "full", "write", "describe")


def make(kind: str, size: int, path: str) -> None:
    """Make a program of a kind and write it."""
    _settle()
    made = layers(size) if kind == LAYERS else KINDS[kind](size)
    with Path(path).open("wb", buffering=0) as file:
        write_program(as_program(made), file)


def run(task: str, first: str, path: str) -> tuple[float, int]:
    """Do one thing with the program at `path`, after it has done so with the one at `first`.

    Once, as a worker does: what is done a second time finds what torch and sympy remember of the first, as far as they have room for it.

    Returns:
        The processor's time in seconds, and how far memory rose, in bytes.
    """
    _settle()
    _task(task, first)()
    measured = _task(task, path)
    # As in the server, where what the workers share is frozen.
    gc.collect()
    gc.freeze()
    times: list[float] = []
    peak = peak_beyond(lambda: times.append(seconds(measured, time.process_time)))
    return times[0], peak


def _task(task: str, path: str) -> Callable[[], object]:
    if task == STOCK_DECOMPOSE:
        loaded = torch.export.load(path)
        return lambda: attempted(loaded.run_decompositions)
    if task == "read":
        return partial(read_program, path)
    read = read_program(path)
    if task == "write":
        return lambda: write_program(read.program, cast(IO[bytes], _Nowhere()))
    if task == DECOMPOSE:
        return lambda: run_pipeline(read.program, DECOMPOSE)
    if task == "no-op":
        return lambda: run_pipeline(read.program, [ExportPass()])
    if task != "describe":
        return lambda: run_pipeline(read.program, [Rewriting()], mode=task)
    made = run_pipeline(read.program, [Rewriting()])
    return lambda: deque(describe_nodes(made.program, provenance=made.provenance, selection=NodeSelection.ALL), maxlen=0)


def attempted(task: Callable[[], object]) -> bool:
    """Do what stock torch cannot do of every program. Whether it did."""
    try:
        task()
    except Exception:  # noqa: BLE001 - torch raises what it likes
        return False
    return True


def _settle() -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)


class _Nowhere(io.RawIOBase):
    """Takes what is written and keeps nothing."""

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        return len(memoryview(cast(bytes, data)))
