"""Private memory of a server's front end and of its worker with a program of 1 GiB of weights, over the socket."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch
from torch import nn

from benchmarks.passes import REWRITE, SERVER_ARGUMENTS
from benchmarks.private_memory import Peaks, private_bytes, watched
from benchmarks.results import Cell, Grid, Section, at_most
from benchmarks.setup import Setup
from retraced import EmbeddedServer

_SMALL_ROWS, _QUICK_ROWS, _BIG_ROWS = 16, 4_096, 65_536
_COLUMNS = 4_096
_MB = 1e6


class _Weights(nn.Module):
    def __init__(self, rows: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(rows, _COLUMNS))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for _ in range(20):
            x = (x @ self.weight)[:, :1] + x
        return x


def measure(setup: Setup) -> Section:
    """Send a small program, then a large one, to one server, with a pass that changes them: all weights go up and come back."""
    rows: list[list[Cell]] = []
    with EmbeddedServer(SERVER_ARGUMENTS) as server:
        pid = server.pid
        assert pid is not None
        small = _peaks(setup, server.address, pid, _SMALL_ROWS)
        # The front end has allocated what it keeps; what a large program takes comes on top.
        idle = private_bytes(pid)
        big = _peaks(setup, server.address, pid, _QUICK_ROWS if setup.quick else _BIG_ROWS)
    front_end, worker = (big.front_end - idle) / _MB, (big.worker - small.worker) / _MB
    rows.append(["front end", idle / _MB, big.front_end / _MB, front_end])
    rows.append(["worker", small.worker / _MB, big.worker / _MB, worker])
    columns = ["process", "small program, MB", "1 GiB of weights, MB", "more, MB"]
    figures = [at_most("front end, more", front_end, 300, "MB"), at_most("worker, more", worker, 300, "MB")]
    return Section("memory", grids=[Grid("peak private memory", columns, rows)], figures=figures)


def _peaks(setup: Setup, address: str, pid: int, rows: int) -> Peaks:
    setup.say(f"memory: {rows * _COLUMNS * 4 >> 20} MiB of weights")
    path = setup.folder / f"weights-{rows}.pt2"
    torch.export.save(torch.export.export(_Weights(rows), (torch.ones(1, rows),)), path)
    try:
        with watched(pid) as peaks:
            _transform(address, path)
    finally:
        path.unlink()
    return peaks


def _transform(address: str, path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "benchmarks.batch", address, str(path), REWRITE, "1"], stdout=subprocess.DEVNULL, check=True
    )
