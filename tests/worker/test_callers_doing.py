"""What an archive holds is never a fault of the server: a job that cannot go on says what of the program it is."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from retraced_server.errors import Reason
from retraced_server.pipeline.domain import NodeSelection
from retraced_server.worker import job as job_module
from tests.support.hostile.route import MODEL, edited, graph, saved
from tests.worker.jobs import run


class _Branches(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cond(x.sum() > 0, torch.sin, torch.cos, (x,))


def _with_metadata(key: str, text: str) -> bytes:
    def edit(model: Any) -> None:
        for node in graph(model)["nodes"]:
            node["metadata"][key] = text

    return edited(edit)


@pytest.mark.parametrize("name", ["graph", "_graph", "meta", "code", "_code", "training", "forward", "recompile"])
def test_subgraph_of_the_name_of_an_attribute_of_graph_modules_is_refused(name: str) -> None:
    def edit(model: Any) -> None:
        for node in graph(model)["nodes"]:
            for argument in node["inputs"]:
                if "as_graph" in argument["arg"] and argument["arg"]["as_graph"]["name"] == "true_graph_0":
                    argument["arg"]["as_graph"]["name"] = name

    archive = edited(edit, MODEL, saved(torch.export.export(_Branches(), (torch.ones(3),))))
    error = run(archive, "retrace").error
    assert error.reason is Reason.PROGRAM_INVALID
    assert f"`{name}`" in error.message


@pytest.mark.parametrize("text", ["NaN", "[1e999]", '{"a": NaN, "b": 1}'])
def test_custom_metadata_that_json_cannot_hold_is_left_out_of_what_is_told(text: str) -> None:
    ran = run(_with_metadata("custom", text), "retrace", node_metadata=NodeSelection.ALL)
    assert not ran.summary.modified


def test_number_that_json_cannot_hold_goes_through_a_pass_that_torch_traces() -> None:
    ran = run(_with_metadata("custom", '{"a": NaN, "b": 1}'), "decompose", node_metadata=NodeSelection.ALL)
    assert ran.summary.modified


@pytest.mark.parametrize("text", ["NaN", "[1]"])
def test_custom_metadata_that_is_no_object_fails_the_pass_in_which_torch_needs_one(text: str) -> None:
    assert run(_with_metadata("custom", text), "decompose{by=torch}").error.reason is Reason.PASS_FAILED


@pytest.mark.parametrize(("key", "entry"), [("nn_module_stack", "k,p,t"), ("source_fn_stack", "k,t"), ("torch_fn", "k")])
def test_stack_of_more_entries_than_any_program_has_is_refused(key: str, entry: str) -> None:
    error = run(_with_metadata(key, ";".join([entry] * 10_001)), "retrace").error
    assert error.reason is Reason.PROGRAM_UNSUPPORTED
    assert "10000 entries" in error.message


def test_most_entries_that_a_stack_may_have_are_told() -> None:
    archive = _with_metadata("nn_module_stack", ";".join(f"k{at},p,t" for at in range(10_000)))
    assert run(archive, "retrace", node_metadata=NodeSelection.ALL).nodes


def test_summary_over_the_size_of_a_message_is_the_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_module, "_LARGEST_RESPONSE", 10_000)
    archive = edited(lambda model: model.__setitem__("guards_code", ["x" * 200] * 100))
    for validate_only in (False, True):
        error = run(archive, "retrace", validate_only=validate_only).error
        assert error.reason is Reason.PROGRAM_TOO_LARGE
        assert "without guards" in error.message
