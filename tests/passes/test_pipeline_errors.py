"""A pipeline that fails: the error says which pass, where, and what is left to run; and nothing is left behind."""

from __future__ import annotations

import copy
import linecache
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx
from torch.export import Dim, ExportedProgram

from retraced_server.errors import Reason, RetracedError
from retraced_server.passes import ProgramPass, ProgramPassResult, run_pipeline
from retraced_server.retrace import ExportPass, NodeMetadata, PassError, PassResult, ProxyValue
from retraced_server.worker.job import is_out_of_memory
from retraced_server.worker.sandbox.violations import violation_of
from tests.passes.support import export
from tests.support.compare import assert_shape_env_unchanged, shape_env_snapshot
from tests.support.describe import alias_sets, describe_program
from tests.support.models import by_name
from tests.support.passes import ReluTwice

aten = torch.ops.aten


class _Raises(ExportPass):
    """Fails at the first sine, after it has made a node with a symbol of its own."""

    def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> Any:
        if op is aten.sin.default:
            super().call_operator(aten.nonzero.default, (args[0],), {}, meta)
            raise LookupError("no such table")
        return super().call_operator(op, args, kwargs, meta)


class _CallsTorchWrongly(ExportPass):
    """Fails in torch, which the pass calls."""

    def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> Any:
        return torch.zeros(2, 3).view(7)


class _MakesInvalid(ExportPass):
    """Leaves a Python function where the verifier allows operators only."""

    def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> Any:
        result = super().call_operator(op, args, kwargs, meta)
        if op is aten.relu.default:
            result.node.target = torch.relu
        return result


class _AddsGuard(ExportPass):
    """Views rows as pairs, for which their number must be even."""

    def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> Any:
        if op is not aten.relu.default:
            return super().call_operator(op, args, kwargs, meta)
        pairs = super().call_operator(aten.view.default, (args[0], [-1, 2, 4]), {}, meta)
        halves = super().call_operator(aten.unflatten.int, (args[0], 0, [2, -1]), {}, meta)
        summed = super().call_operator(aten.sum.default, (halves,), {}, meta)
        super().call_operator(aten.add.Tensor, (pairs, summed), {}, meta)
        return super().call_operator(op, args, kwargs, meta)


def _program() -> ExportedProgram:
    return export(
        lambda x: (x.cos().relu() + 1).sin(), torch.randn(6, 4), dynamic_shapes=(({0: Dim("batch", min=2, max=64)},),)
    )


def _failure(program: ExportedProgram, pipeline: Any, **options: Any) -> RetracedError:
    before, aliases, env = describe_program(program), alias_sets(program), shape_env_snapshot(program)
    with pytest.raises(RetracedError) as caught:
        run_pipeline(program, pipeline, **options)
    assert describe_program(program) == before
    assert alias_sets(program) == aliases
    assert_shape_env_unchanged(env, program)
    return caught.value


def test_line_of_a_failing_hook_is_the_pass_s_own_and_not_torch_s() -> None:
    error = _failure(_program(), [_CallsTorchWrongly()])
    line = error.metadata["error_line"]
    assert "torch.zeros(2, 3).view(7)" in linecache.getline(__file__, int(line.removeprefix("test_pipeline_errors.py:")))
    assert error.metadata["error_type"] == "RuntimeError"


class _WordlessError(RuntimeError):
    """An exception that cannot be written."""

    def __str__(self) -> str:
        raise KeyError("no text")


class _RaisesWordless(ExportPass):
    def call_operator(self, op: Any, args: Any, kwargs: Any, meta: NodeMetadata) -> ProxyValue[Any]:
        raise _WordlessError


def _raises_wordless(module: fx.GraphModule) -> Any:
    raise _WordlessError


@pytest.mark.parametrize("instance", [_RaisesWordless(), _raises_wordless], ids=["hook", "function"])
def test_exception_that_cannot_be_written_is_named_by_its_type(instance: Any) -> None:
    error = _failure(_program(), [instance])
    assert error.reason is Reason.PASS_FAILED
    assert error.metadata["error_type"] == "_WordlessError"
    assert "_WordlessError (at test_pipeline_errors.py:" in error.message
    # The worker asks of any error whether it is one of memory, or of the sandbox.
    assert not is_out_of_memory(error)
    assert violation_of(error, None, []) is None


def test_hook_that_raises_what_cannot_be_written_fails_with_a_pass_error_of_its_type() -> None:
    with pytest.raises(PassError, match=r"failed at node 'cos' .*: _WordlessError$") as caught:
        _RaisesWordless()(_program().graph_module)
    assert isinstance(caught.value, _WordlessError)


def test_exception_that_a_built_in_pass_meets_keeps_its_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retraced_server.passes.cse.call_key", lambda *_: dict[str, str]()["nope"])
    error = _failure(_program(), "cse")
    assert error.metadata["error_type"] == "KeyError"
    assert "KeyError" in error.message


def test_failing_hook_is_named_with_its_pass_node_operator_and_source() -> None:
    error = _failure(_program(), ["decompose", ReluTwice(), _Raises(), "cse", "dce"])
    assert error.reason is Reason.PASS_FAILED
    assert "pass 3 of 5, `_Raises`: _Raises failed at node 'sin' (aten.sin.default)" in error.message
    assert "no such table" in error.message
    metadata = error.metadata
    assert metadata.pop("source").startswith(__file__.replace("test_pipeline_errors", "support"))
    line = metadata.pop("error_line")
    assert (
        linecache.getline(__file__, int(line.removeprefix("test_pipeline_errors.py:"))).strip().startswith("raise LookupError(")
    )
    assert error.message.endswith(f"LookupError: no such table (at {line})")
    assert metadata == {
        "error_type": "LookupError",
        "pass": "_Raises",
        "pass_index": "2",
        "completed_pipeline": "decompose,ReluTwice",
        "remaining_pipeline": "_Raises,cse,dce",
        "node": "sin",
        "target": "aten.sin.default",
    }
    assert isinstance(error.__cause__, PassError)
    assert isinstance(error.__cause__.__cause__, LookupError)


def test_failure_in_a_subgraph_names_the_body() -> None:
    program = export(lambda x: torch.cond(x.sum() > 0, torch.sin, torch.cos, (x,)), torch.randn(3))
    error = _failure(program, [_Raises()])
    assert (error.metadata["graph"], error.metadata["node"]) == ("true_graph_0", "sin")


@pytest.mark.parametrize("name", ["everything", "data_dependent", "vit", "cond_with_item"])
def test_nothing_is_left_behind_by_passes_that_worked_before_the_one_that_failed(name: str) -> None:
    class Fails(ProgramPass):
        """Fail."""

        def run(self, program: ExportedProgram) -> ProgramPassResult:
            raise ValueError("not today")

    error = _failure(by_name(name).program, ["decompose,cse", ReluTwice(), Fails()])
    assert error.reason is Reason.PASS_FAILED
    assert error.metadata["completed_pipeline"] == "decompose,cse,ReluTwice"


def test_invalid_graph_is_the_fault_of_the_pass_that_made_it() -> None:
    error = _failure(_program(), [ReluTwice(), "cse", _MakesInvalidLater(), "dce"])
    assert error.reason is Reason.PASS_OUTPUT_INVALID
    assert (error.metadata["pass"], error.metadata["pass_index"]) == ("_MakesInvalidLater", "2")


class _MakesInvalidLater(_MakesInvalid):
    """The same where relu has been rewritten."""

    def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> Any:
        result = ExportPass.call_operator(self, op, args, kwargs, meta)
        if op is aten.gt.Scalar:
            result.node.target = torch.gt
        return result


def _removes_an_output(module: fx.GraphModule) -> PassResult:
    output = module.graph.output_node()
    output.args = ((),)
    return PassResult(module, True)


def _returns_a_bare_value(module: fx.GraphModule) -> PassResult:
    output = module.graph.output_node()
    output.args = (output.all_input_nodes[0],)
    return PassResult(module, True)


def _has_no_output(module: fx.GraphModule) -> PassResult:
    module.graph.erase_node(module.graph.output_node())
    return PassResult(module, True)


def _is_no_result(module: fx.GraphModule) -> Any:
    return module


def _has_no_graph(module: fx.GraphModule) -> PassResult:
    return PassResult(torch.nn.Linear(2, 2), True)


class _CallsBadly(ExportPass):
    def call(self, graph_module: fx.GraphModule) -> Any:
        return graph_module


class _RunsBadly(ProgramPass):
    def __init__(self, result: Callable[[ExportedProgram], Any]) -> None:
        self._result = result

    def run(self, program: ExportedProgram) -> Any:
        return self._result(program)


def _edited(edit: Callable[[fx.Node], None]) -> ProgramPass:
    """Makes a pass on whole programs that edits the node of a relu in a copy."""

    def edited(program: ExportedProgram) -> ProgramPassResult:
        made = copy.deepcopy(program)
        for node in made.graph.find_nodes(op="call_function", target=aten.relu.default):
            edit(node)
        return ProgramPassResult(made, True)

    return _RunsBadly(edited)


@pytest.mark.parametrize(
    ("broken", "reason", "message"),
    [
        (_MakesInvalid(), Reason.PASS_OUTPUT_INVALID, "the graph is not valid"),
        (_removes_an_output, Reason.PASS_FAILED, "changed the number of outputs from 1 to 0"),
        (_returns_a_bare_value, Reason.PASS_FAILED, "the graph must end with an output node"),
        (_has_no_output, Reason.PASS_FAILED, "the graph must end with an output node"),
        (_is_no_result, Reason.PASS_FAILED, "it returned a GraphModule, not a PassResult"),
        (_has_no_graph, Reason.PASS_FAILED, "its PassResult has a Linear, not a GraphModule"),
        (_CallsBadly(), Reason.PASS_FAILED, "it returned a GraphModule, not a PassResult"),
        (_RunsBadly(lambda program: program), Reason.PASS_FAILED, "it returned a ExportedProgram, not a ProgramPassResult"),
        (_RunsBadly(lambda _: ProgramPassResult(None, True)), Reason.PASS_FAILED, "a NoneType, not an ExportedProgram"),  # type: ignore[arg-type]
        (_RunsBadly(lambda program: ProgramPassResult(program, True)), Reason.PASS_FAILED, "gave back the object"),
        (_RunsBadly(lambda _: ProgramPassResult(_program(), False)), Reason.PASS_FAILED, "did not give back the object"),
        (
            _edited(lambda node: setattr(node, "args", ())),
            Reason.PASS_OUTPUT_INVALID,
            "aten::relu() is missing value for argument",
        ),
        (_edited(lambda node: setattr(node, "target", torch.relu)), Reason.PASS_OUTPUT_INVALID, "the program is not valid"),
    ],
)
def test_pass_that_breaks_its_contract_is_told_how(broken: Any, reason: Reason, message: str) -> None:
    error = _failure(_program(), [broken])
    assert error.reason is reason
    assert message in error.message


class _ReturnsADictionary(ExportPass):
    """Returns the outputs in a structure that no graph of a program has."""

    def output(self, results: Any, meta: Any) -> Any:
        return super().output({"result": results[0]}, meta)


@pytest.mark.parametrize("rest", [[], ["cse", "dce"], ["decompose"]])
def test_outputs_that_no_program_has_are_the_fault_of_the_pass_that_made_them(rest: list[str]) -> None:
    error = _failure(_program(), ["retrace", _ReturnsADictionary(), *rest])
    assert error.reason is Reason.PASS_OUTPUT_INVALID
    assert "the graph must return a flat tuple" in error.message
    assert error.metadata["pass"] == "_ReturnsADictionary"
    assert error.metadata["remaining_pipeline"] == ",".join(["_ReturnsADictionary", *rest])


def test_new_guards_are_reported_or_refused() -> None:
    program = _program()
    result = run_pipeline(program, [_AddsGuard()])
    assert result.reports[0].new_guards
    error = _failure(_program(), ["retrace", _AddsGuard(), "dce"], refuse_new_guards=True)
    assert error.reason is Reason.NEW_GUARDS
    assert "new nodes add guards, which are refused: " in error.message
    assert result.reports[0].new_guards[0] in error.message
    assert error.metadata["pass"] == "_AddsGuard"
    assert error.metadata["remaining_pipeline"] == "_AddsGuard,dce"


def test_passes_without_new_guards_run_where_these_are_refused() -> None:
    assert run_pipeline(_program(), "decompose,cse,dce", refuse_new_guards=True).reports[0].new_guards == ()


@pytest.mark.parametrize(
    ("pipeline", "reason"),
    [
        ("decompose,,dce", Reason.PIPELINE_SYNTAX),
        ("", Reason.PIPELINE_SYNTAX),
        ("decompse", Reason.PASS_UNKNOWN),
        ("cse{fast=true}", Reason.OPTION_UNKNOWN),
        ("decompose{table=all}", Reason.OPTION_INVALID),
        (["retrace", "decompse"], Reason.PASS_UNKNOWN),
    ],
)
def test_text_that_names_no_pipeline_fails_before_anything_runs(pipeline: Any, reason: Reason) -> None:
    class Events:
        started = 0

        def pass_started(self, *_: object) -> None:
            self.started += 1

        def progress(self, *_: object) -> None: ...

        def pass_finished(self, *_: object) -> None: ...

    events = Events()
    error = _failure(by_name("unused_input").program, pipeline, observer=events)
    assert error.reason is reason
    assert events.started == 0


def test_failed_pass_object_can_run_again() -> None:
    raising = _Raises()
    _failure(_program(), [raising])
    program = export(lambda x: x.cos(), torch.randn(3))
    assert run_pipeline(program, [raising]).program is program


def test_interrupt_leaves_nothing_behind_and_is_not_wrapped() -> None:
    class Interrupted(ExportPass):
        def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> Any:
            super().call_operator(aten.nonzero.default, (args[0],), {}, meta)
            raise KeyboardInterrupt

    program = _program()
    env = shape_env_snapshot(program)
    with pytest.raises(KeyboardInterrupt):
        run_pipeline(program, [ReluTwice(), Interrupted()])
    assert_shape_env_unchanged(env, program)
