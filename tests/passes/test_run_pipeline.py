"""`run_pipeline`: what it reports, in which order, and where every node came from after several passes."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import fx
from torch.export import ExportedProgram
from torch.fx.passes.infra.pass_base import PassBase

from retraced_server.analysis.graphs import count_nodes
from retraced_server.passes import ProgramPass, ProgramPassResult, run_pipeline
from retraced_server.passes.cse import CommonSubexpressionElimination
from retraced_server.pipeline.domain import PassReport, Provenance, RetraceMode
from retraced_server.retrace import PassContext, PassResult, pass_context
from tests.passes.support import export, lowered, names, node_keys, targets
from tests.support.compare import assert_same_results, validate
from tests.support.describe import describe_program
from tests.support.models import by_name
from tests.support.passes import ReluToClamp, ReluTwice

aten = torch.ops.aten
_X = torch.randn(3, 4)


class _Events:
    """Writes down what it hears."""

    def __init__(self) -> None:
        self.heard: list[tuple[Any, ...]] = []

    def pass_started(self, index: int, count: int, name: str, text: str) -> None:
        self.heard.append(("started", index, count, name, text))

    def progress(self, done: int, total: int) -> None:
        self.heard.append(("progress", done, total))

    def pass_finished(self, index: int, report: PassReport) -> None:
        self.heard.append(("finished", index, report))


def test_reports_tell_what_each_pass_did() -> None:
    program = by_name("vit").program
    reports = lowered(by_name("vit")).reports
    assert [report.name for report in reports] == ["decompose", "cse", "dce"]
    assert [report.modified for report in reports] == [bool(report.rewrites) for report in reports]
    assert reports[0].nodes_before == count_nodes(program.graph_module)
    assert reports[-1].nodes_after == count_nodes(lowered(by_name("vit")).program.graph_module)
    for before, after in pairwise(reports):
        assert before.nodes_after == after.nodes_before
    assert all(report.seconds > 0 for report in reports)


def test_nodes_of_subgraphs_are_counted() -> None:
    program = by_name("nested").program
    assert count_nodes(program.graph_module) == len(node_keys(program)) > len(program.graph.nodes)


def test_reports_have_canonical_text() -> None:
    result = run_pipeline(by_name("unused_input").program, " decompose { table = core-aten } , retrace,decompose{table=none}")
    assert [report.text for report in result.reports] == ["decompose", "retrace", "decompose{table=none}"]


def test_observer_hears_of_passes_and_progress_in_order() -> None:
    events = _Events()
    result = run_pipeline(by_name("bert").program, "retrace,dce", observer=events)
    kinds = [event[0] for event in events.heard]
    assert kinds[0] == "started"
    assert kinds[-2:] == ["started", "finished"]
    assert events.heard[0] == ("started", 0, 2, "retrace", "retrace")
    progress = [event[1:] for event in events.heard if event[0] == "progress"]
    total = result.reports[0].nodes_before
    assert progress[-1] == (total, total)
    assert [done for done, _ in progress] == sorted({done for done, _ in progress})
    assert 2 <= len(progress) < total / 10
    assert [event[2] for event in events.heard if event[0] == "finished"] == list(result.reports)


def test_text_and_pass_objects_can_be_mixed() -> None:
    program = export(lambda x: x.relu() + x.relu(), _X)
    result = run_pipeline(program, ["cse,retrace", ReluToClamp(), "dce"])
    assert [report.name for report in result.reports] == ["cse", "retrace", "ReluToClamp", "dce"]
    assert names(result.program) == ["args_0", "relu", "add", "output"]
    assert targets(result.program) == {"aten.clamp_min": 1, "aten.add": 1}


def test_one_pass_object_can_run_several_times_in_a_pipeline() -> None:
    cse = CommonSubexpressionElimination()
    result = run_pipeline(export(lambda x: x.relu() + x.relu(), _X), [cse, ReluTwice(), cse])
    assert [report.modified for report in result.reports] == [True, True, False]


@pytest.mark.parametrize("pipeline", [[], ["retrace"], "dce,retrace,cse"])
def test_pipeline_that_changes_nothing_gives_the_input_program(pipeline: Any) -> None:
    program = by_name("unused_input").program
    result = run_pipeline(program, pipeline)
    assert result.program is program
    assert not result.modified
    assert result.provenance == {key: Provenance((key,), None) for key in node_keys(program)}


def test_mode_is_given_as_text_or_enumeration_and_unknown_ones_are_refused() -> None:
    program = by_name("unused_input").program
    for mode in ("full", RetraceMode.FULL):
        assert run_pipeline(program, "retrace", mode=mode).program is program
    with pytest.raises(ValueError, match="is not a valid RetraceMode"):
        run_pipeline(program, "retrace", mode="fast")


def test_provenance_goes_through_several_passes() -> None:
    program = export(torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU()), _X)
    result = run_pipeline(program, ["decompose", ReluTwice(), "cse,dce"])
    assert result.provenance.keys() == node_keys(result.program)
    made = {key: (entry.from_nodes, entry.made_by) for key, entry in result.provenance.items() if entry.made_by is not None}
    assert made["permute"] == (("linear",), "decompose")
    assert made["linear"] == (("linear",), "decompose")
    assert made["gt"] == made["relu"] == (("relu",), "ReluTwice")
    assert result.provenance["input_1" if "input_1" in result.provenance else "input"].from_nodes != ()


@pytest.mark.parametrize("name", ["vit", "everything", "nested", "invoke_subgraph", "set_grad", "preserved_parts"])
def test_provenance_is_complete_after_a_pipeline(name: str) -> None:
    result = lowered(by_name(name))
    known = node_keys(by_name(name).program)
    assert result.provenance.keys() == node_keys(result.program)
    for key, entry in result.provenance.items():
        assert entry.made_by in (None, "decompose", "cse"), key
        assert set(entry.from_nodes) <= known, key
    # What torch adds of its own, such as sizes and assertions, is made of something, too.
    assert all(entry.from_nodes for entry in result.provenance.values())


class _InPlace(PassBase):
    """Replaces relu by clamp in the graph that it is given, as torch's own passes do."""

    def call(self, graph_module: fx.GraphModule) -> PassResult:
        found = graph_module.graph.find_nodes(op="call_function", target=aten.relu.default)
        for node in found:
            node.target, node.args = aten.clamp_min.default, (node.args[0], 0)
        graph_module.recompile()
        return PassResult(graph_module, bool(found))


def test_pass_of_torchs_that_changes_its_input_leaves_the_program_alone() -> None:
    program = export(lambda x: x.relu() + 1, _X)
    before = describe_program(program)
    result = run_pipeline(program, [_InPlace()])
    assert describe_program(program) == before
    assert targets(result.program) == {"aten.clamp_min": 1, "aten.add": 1}
    assert result.provenance["relu"] == Provenance(("relu",), "_InPlace")
    assert result.provenance["add"] == Provenance(("add",), None)
    validate(result.program)
    assert_same_results(program, result.program, [((_X,), {})])


def test_pass_that_says_that_it_changed_something_and_did_not_is_not_believed() -> None:
    program = export(lambda x: x + 1, _X)
    result = run_pipeline(program, [lambda module: PassResult(module, True)])
    assert result.program is program
    assert not result.reports[0].modified


def test_pass_that_says_that_it_changed_nothing_and_did_is_not_believed() -> None:
    class Silent(_InPlace):
        def call(self, graph_module: fx.GraphModule) -> PassResult:
            super().call(graph_module)
            return PassResult(graph_module, False)

    result = run_pipeline(export(lambda x: x.relu() + 1, _X), [Silent()])
    assert result.modified
    assert targets(result.program)["aten.clamp_min"] == 1


def test_remarks_of_passes_are_reported() -> None:
    def remarking(module: fx.GraphModule) -> None:
        pass_context().remark("it is late")
        pass_context().count_rewrites(7)

    report = run_pipeline(by_name("unused_input").program, [remarking]).reports[0]
    assert (report.remarks, report.rewrites, report.modified) == (("it is late",), 0, False)


def test_pass_on_whole_programs_sees_what_graph_passes_made() -> None:
    seen: list[ExportedProgram] = []

    class Looks(ProgramPass):
        """Look at the program."""

        def run(self, program: ExportedProgram) -> ProgramPassResult:
            seen.append(program)
            return ProgramPassResult(program, False, remarks=("looked",))

    program = export(lambda x: x.relu() + x.relu(), _X)
    result = run_pipeline(program, ["cse", Looks(), "retrace"])
    assert seen == [result.program]
    assert names(seen[0]) == ["args_0", "relu", "add", "output"]
    assert result.reports[1].remarks == ("looked",)


def test_kept_names_and_preserved_modules_are_given_to_passes_that_ask_for_them() -> None:
    asked: list[PassContext] = []

    def asks(module: fx.GraphModule) -> None:
        asked.append(pass_context())

    run_pipeline(by_name("preserved_parts").program, [asks])
    assert asked[0].preserved_modules == {"first", "second"}
    assert asked[0].kept_names == {
        argument.name
        for entry in by_name("preserved_parts").program.module_call_graph
        if entry.fqn and entry.signature is not None
        for argument in (*entry.signature.inputs, *entry.signature.outputs)
    }


def test_function_is_reported_by_its_name() -> None:
    def looks(module: fx.GraphModule) -> None:
        assert module.graph

    assert run_pipeline(by_name("unused_input").program, [looks]).reports[0].name == "looks"


@pytest.mark.parametrize(("thing", "message"), [(ReluTwice, r"give an instance of it: ReluTwice\(\)"), (3, "3 is no pass")])
def test_thing_that_is_no_pass_is_refused_before_anything_runs(thing: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        run_pipeline(by_name("unused_input").program, ["retrace", thing])
