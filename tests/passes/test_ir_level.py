"""Passes that take programs of a level: checked before anything runs, by one check of validation and of the pipeline itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import fx
from torch.export import ExportedProgram

from retraced_server.errors import Reason, RetracedError
from retraced_server.passes import ProgramPass, ProgramPassResult, check_pipeline, register_pass, registry, run_pipeline
from retraced_server.passes.view_to_view_copy import ViewToViewCopy
from retraced_server.pipeline.catalogue import IrLevel
from retraced_server.retrace import ExportPass, PassError, PassResult
from tests.passes.support import decomposed, export
from tests.support.models import by_name
from tests.worker.jobs import run


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Passes of somebody else's; what ran is noted."""
    monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    ran: list[str] = []

    @register_pass("needs-core-aten", ir_level=IrLevel.CORE_ATEN)
    class NeedsCoreAten(ExportPass):
        """Take programs of the Core ATen set only."""

        def call(self, graph_module: fx.GraphModule) -> PassResult:
            ran.append("needs-core-aten")
            return PassResult(graph_module, False)

    @register_pass("note")
    class Note(ExportPass):
        """Note that it ran."""

        def call(self, graph_module: fx.GraphModule) -> PassResult:
            ran.append("note")
            return PassResult(graph_module, False)

    @register_pass("make-functional")
    class MakeFunctional(ProgramPass):
        """Do what `decompose` does."""

        def run(self, program: ExportedProgram) -> ProgramPassResult:
            ran.append("make-functional")
            return ProgramPassResult(run_pipeline(program, "decompose").program, True)

    return ran


def _failures(program: ExportedProgram, pipeline: Any) -> list[RetracedError]:
    """What validation and the run itself say."""
    caught = []
    for check in (check_pipeline, run_pipeline):
        with pytest.raises(RetracedError) as failure:
            check(program, pipeline)
        caught.append(failure.value)
    return caught


@pytest.mark.parametrize("pipeline", ["view-to-view-copy", "cse,dce,view-to-view-copy", ["retrace", ViewToViewCopy()]])
def test_pass_that_would_get_another_level_is_refused_before_anything_runs(pipeline: Any) -> None:
    program = by_name("in_place").program
    for error in _failures(program, pipeline):
        assert error.reason is Reason.PASS_FAILED
        assert "it takes functional programs, and this node writes to its arguments; run `decompose` before" in error.message
        assert error.metadata["node"] == "copy_"
        assert error.metadata["pass"] == "view-to-view-copy" if isinstance(pipeline, str) else "ViewToViewCopy"


def test_validation_of_a_job_refuses_what_the_job_would() -> None:
    archive = by_name("in_place").archive
    validated, ran = (run(archive, "retrace,view-to-view-copy", validate_only=only) for only in (True, False))
    assert validated.error.reason is Reason.PASS_FAILED
    assert (validated.error.message, validated.error.metadata) == (ran.error.message, ran.error.metadata)
    assert "pass_started" not in ran.kinds


@pytest.mark.parametrize("table", ["core-aten", "aten", "none"])
def test_decompose_before_it_gives_the_level(table: str) -> None:
    program = by_name("in_place").build()
    pipeline = f"cse,decompose{{table={table}}},dce,view-to-view-copy"
    check_pipeline(program, pipeline)
    assert run_pipeline(program, pipeline).modified


def test_program_that_is_of_the_level_needs_nothing_before() -> None:
    check_pipeline(decomposed(by_name("in_place")).program, "view-to-view-copy")


def test_core_aten_is_what_the_table_leaves_alone(passes: list[str]) -> None:
    program = export(lambda x: torch.nn.functional.silu(x).relu(), torch.randn(2))
    for error in _failures(program, "cse,needs-core-aten"):
        assert error.metadata["node"] == "silu"
        assert "this operator is not of the Core ATen set; run `decompose` before" in error.message
    assert passes == []
    check_pipeline(program, "decompose,needs-core-aten")
    with pytest.raises(RetracedError, match="not of the Core ATen set"):
        check_pipeline(program, "decompose{table=aten},needs-core-aten")
    run_pipeline(program, "decompose,needs-core-aten")
    assert passes == ["needs-core-aten"]


def test_what_a_pass_of_somebody_elses_gives_is_checked_when_it_has_run(passes: list[str]) -> None:
    program = by_name("in_place").build()
    check_pipeline(program, "make-functional,view-to-view-copy")
    assert run_pipeline(program, "make-functional,view-to-view-copy").modified
    check_pipeline(program, "note,view-to-view-copy")
    with pytest.raises(RetracedError, match="run `decompose` before") as caught:
        run_pipeline(program, "note,view-to-view-copy")
    assert caught.value.metadata["pass_index"] == "1"
    assert passes == ["make-functional", "note"]


def test_pass_that_is_called_by_itself_refuses_too() -> None:
    with pytest.raises(PassError, match="run `decompose` before"):
        ViewToViewCopy()(by_name("in_place").program.graph_module)
