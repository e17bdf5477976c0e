"""What is read in spite of what it holds is the program that it would be without."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from retraced_server.passes import run_pipeline
from retraced_server.program import write_program
from tests.program.archives import read_bytes, records
from tests.support.hostile import ROUTES, Route
from tests.support.hostile.route import MODEL, SAMPLE_INPUTS, edited, plain

_INERT = ("pickled-sample-inputs", "guards")


def _route(name: str) -> Route:
    return next(route for route in ROUTES if route.name == name)


# Any: parsed JSON.
def _graph(archive: bytes) -> Any:
    return json.loads(records(archive)[MODEL])["graph_module"]


@pytest.mark.parametrize("name", _INERT)
def test_graph_is_that_of_the_plain_archive_and_the_rest_is_passed_on(name: str, tmp_path: Path) -> None:
    archive = _route(name).make(tmp_path)
    read = read_bytes(archive, tmp_path)
    with (tmp_path / "written.pt2").open("wb") as file:
        write_program(read.program, file, source=read)
    written = (tmp_path / "written.pt2").read_bytes()
    assert _graph(written) == _graph(plain())
    assert records(written)[MODEL] == records(archive)[MODEL]
    assert records(written)[SAMPLE_INPUTS] == records(archive)[SAMPLE_INPUTS]
    assert not (tmp_path / "marker").exists()


def test_stack_traces_are_no_part_of_generated_source(tmp_path: Path) -> None:
    trace = f'File "x.py", line 1, in y\n    z\nopen({str(tmp_path / "marker")!r}, "w")\n'

    def edit(model: Any) -> None:
        for node in model["graph_module"]["graph"]["nodes"]:
            node["metadata"]["stack_trace"] = trace

    read = read_bytes(edited(edit), tmp_path)
    program = read.program.run_decompositions()
    assert "open" not in program.graph_module.code
    assert not (tmp_path / "marker").exists()
    assert trace in {node.meta.get("stack_trace") for node in read.program.graph.nodes}


class _Prints(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch.ops.aten._print("a line of the file")
        return x + 1


def test_operator_that_prints_prints_nothing_where_the_program_is_transformed(capfd: pytest.CaptureFixture[str]) -> None:
    program = torch.export.export(_Prints(), (torch.ones(2),))
    capfd.readouterr()
    run_pipeline(program, "retrace", mode="full")
    run_pipeline(program, "decompose,cse,dce")
    assert "a line of the file" not in capfd.readouterr().out
    program.module()(torch.ones(2))
    assert "a line of the file" in capfd.readouterr().out
