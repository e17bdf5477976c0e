"""A failing hook leaves nothing behind, and the error names the pass, the node, its operator and the user's source line."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import fx, nn
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from retraced_server.errors import Reason, RetracedError
from retraced_server.passes import run_pipeline
from retraced_server.retrace import ExportPass, ExportPassError, PassError, PassResult, ProxyValue
from tests.support.case import ProgramCase
from tests.support.compare import assert_shape_env_unchanged, shape_env_snapshot
from tests.support.describe import describe_program, graphs
from tests.support.models import by_name
from tests.support.passes import TorchExportPass

aten = torch.ops.aten


class FailsAt(ExportPass):
    """Makes a few nodes and constants, then fails at the last relu of the program, or in the hook of that name."""

    def __init__(self, error: BaseException, hook: str = "call_operator") -> None:
        super().__init__()
        self.error, self.hook, self.armed = error, hook, True

    def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> ProxyValue[Any]:
        if self.armed and self.hook == "call_operator" and op is aten.relu.default:
            super().call_operator(aten.add.Tensor, (args[0], torch.tensor(1)), {}, meta)
            super().call_operator(aten.nonzero.default, (args[0],), {}, meta)
            raise self.error
        return super().call_operator(op, args, kwargs, meta)

    def output(self, results: Any, meta: Any) -> ProxyValue[Any]:
        if self.armed and self.hook == "output":
            raise self.error
        return super().output(results, meta)

    def placeholder(self, name: str, arg: Any, meta: Any) -> ProxyValue[Any]:
        if self.armed and self.hook == "placeholder":
            raise self.error
        return super().placeholder(name, arg, meta)


@pytest.mark.parametrize("hook", ["call_operator", "output", "placeholder"])
def test_failing_hook_leaves_program_modes_and_shape_environment_alone(higher_order_case: ProgramCase, hook: str) -> None:
    program = higher_order_case.program
    before, env = describe_program(program), shape_env_snapshot(program)
    modes, grad = len(_get_current_dispatch_mode_stack()), torch.is_grad_enabled()
    failing = FailsAt(ValueError("as asked"), hook)
    has_relu = any(node.target is aten.relu.default for _, graph in graphs(program.graph_module) for node in graph.graph.nodes)
    if hook != "call_operator" or has_relu:
        with pytest.raises(RetracedError, match="as asked") as failure:
            run_pipeline(program, [failing])
        assert failure.value.reason is Reason.PASS_FAILED
    assert len(_get_current_dispatch_mode_stack()) == modes
    assert torch.is_grad_enabled() is grad
    assert_shape_env_unchanged(env, program)
    assert describe_program(program) == before


def test_failed_pass_object_can_run_again() -> None:
    program = by_name("everything").program
    failing = FailsAt(ValueError("once"))
    with pytest.raises(PassError):
        failing(program.graph_module)
    failing.armed = False
    assert failing(program.graph_module).graph_module is program.graph_module
    assert failing.node_debug_str is None
    assert failing.fake_tensor_mode is None


def test_error_names_pass_node_operator_graph_and_source_line() -> None:
    cause = ValueError("as asked")
    with pytest.raises(PassError) as failure:
        FailsAt(cause)(by_name("everything").program.graph_module)
    error = failure.value
    assert (error.pass_name, error.node, error.graph, error.target) == ("FailsAt", "relu", "true_graph_0", "aten.relu.default")
    assert error.source is not None
    file, line = error.source.rsplit(":", 1)
    assert file.endswith("programs.py")
    assert "torch.cond" in Path(file).read_text().splitlines()[int(line) - 1]
    assert error.__cause__ is cause
    for word in ("FailsAt", "'relu'", "'true_graph_0'", "aten.relu.default", error.source, "as asked"):
        assert word in str(error)


def test_error_of_a_pipeline_tells_what_was_done_and_what_is_left() -> None:
    with pytest.raises(RetracedError) as failure:
        run_pipeline(by_name("unused_input").program, ["retrace", FailsAt(KeyError("x")), "retrace"])
    metadata = failure.value.metadata
    assert metadata["pass"] == "FailsAt"
    assert metadata["pass_index"] == "1"
    assert metadata["node"] == "relu"
    assert metadata["completed_pipeline"] == "retrace"
    assert metadata["remaining_pipeline"] == "FailsAt,retrace"


def test_operator_that_rejects_its_arguments_is_reported_at_the_node() -> None:
    class Breaks(ExportPass):
        def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> ProxyValue[Any]:
            if op is aten.relu.default:
                return super().call_operator(aten.mm.default, (args[0], args[0]), {}, meta)
            return super().call_operator(op, args, kwargs, meta)

    with pytest.raises(PassError, match=r"Breaks failed at node 'relu' \(aten\.relu\.default\), from .*programs\.py:\d+: "):
        Breaks()(by_name("unused_input").program.graph_module)


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_interrupt_is_passed_on_and_leaves_nothing(interrupt: type[BaseException]) -> None:
    program = by_name("everything").program
    env = shape_env_snapshot(program)
    with pytest.raises(interrupt):
        run_pipeline(program, [FailsAt(interrupt())])
    assert_shape_env_unchanged(env, program)


def hand_made(kind: str, target: Any) -> fx.GraphModule:
    """A graph with one call of an odd kind."""
    root = nn.Module()
    root.add_module("linear", nn.Linear(2, 2))
    graph = fx.Graph()
    x = graph.placeholder("x")
    graph.output((graph.create_node(kind, target, (x,), {}),))
    module = fx.GraphModule(root, graph)
    module.meta["args"] = [torch.ones(2, 2)]
    return module


@pytest.mark.parametrize(
    ("kind", "target", "message"),
    [
        ("call_module", "linear", "call_module is not supported"),
        ("call_method", "relu", "call_method is not supported"),
        ("call_function", torch.nn.functional.gelu, "Unsupported target type"),
    ],
    ids=["module", "method", "function"],
)
def test_node_that_no_exported_program_has_is_refused_by_name(kind: str, target: Any, message: str) -> None:
    with pytest.raises(PassError, match=message) as failure:
        ExportPass()(hand_made(kind, target))
    assert failure.value.node is not None


def test_pass_that_was_not_initialised_is_refused() -> None:
    class Forgets(ExportPass):
        def __init__(self) -> None:
            pass

    with pytest.raises(ExportPassError, match="not initialized with __init__"):
        Forgets()(by_name("custom_ops").program.graph_module)


@pytest.mark.parametrize("base", [ExportPass, TorchExportPass])
def test_pass_that_visits_nothing_needs_no_initialisation(base: type) -> None:
    class Annotates(base):  # type: ignore[misc]
        def __init__(self, key: str) -> None:
            self.key = key

        def call(self, graph_module: fx.GraphModule) -> PassResult:
            for node in graph_module.graph.nodes:
                node.meta[self.key] = node.name
            return PassResult(graph_module, True)

    for instance in (Annotates("noted"), copy.deepcopy(Annotates("noted"))):
        result = instance(by_name("custom_ops").build().graph_module)
        assert result.modified
        assert all(node.meta["noted"] == node.name for node in result.graph_module.graph.nodes)


def test_hooks_outside_of_a_run_are_refused() -> None:
    idle = ExportPass()
    with pytest.raises(ExportPassError, match="while the pass runs"):
        idle.call_operator(aten.relu.default, (), {}, idle._create_dummy_node_metadata())


def test_pass_within_itself_is_refused() -> None:
    class Recurses(ExportPass):
        def output(self, results: Any, meta: Any) -> ProxyValue[Any]:
            self(by_name("unused_input").program.graph_module)
            return super().output(results, meta)

    with pytest.raises(PassError, match="running already"):
        Recurses()(by_name("custom_ops").program.graph_module)


def test_output_made_before_its_turn_is_refused() -> None:
    class Hurries(ExportPass):
        def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> ProxyValue[Any]:
            return self.output((args[0],), meta)

    with pytest.raises(PassError, match="only be called while the output node is visited"):
        Hurries()(by_name("custom_ops").program.graph_module)


def test_tracer_does_not_trace() -> None:
    with pytest.raises(ExportPassError, match=r"doesn't support trace\(\)"):
        ExportPass().tracer.trace()
