"""Edits by hand: in `call`, in `__call__`, in hooks, by another object, with or without a visit after them; on our class as on torch's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx, nn
from torch.export import ExportedProgram

from retraced_server.errors import Reason, RetracedError
from retraced_server.passes import run_pipeline
from retraced_server.retrace import ExportPass, PassError, PassResult
from tests.passes.support import export
from tests.support.compare import assert_shape_env_unchanged, saved_and_loaded, shape_env_snapshot, validate
from tests.support.describe import describe_program
from tests.support.models import by_name
from tests.support.passes import TorchExportPass

aten = torch.ops.aten


def _program() -> ExportedProgram:
    return export(lambda x: x.mean(1).relu() * 2.0, torch.randn(2, 3))


def _keep_dimension(module: fx.GraphModule) -> None:
    for node in module.graph.find_nodes(op="call_function", target=aten.mean.dim):
        node.args = (*node.args[:2], True)
    module.recompile()


def _values(module: fx.GraphModule) -> list[Any]:
    return [
        (str(node.target), tuple(node.meta["val"].shape), node.meta["val"].dtype, node.meta["val"].stride())
        for node in module.graph.nodes
        if node.op == "call_function"
    ]


def in_call(base: type) -> Any:
    class InCall(base):  # type: ignore[misc]
        def call(self, graph_module: fx.GraphModule) -> Any:
            _keep_dimension(graph_module)
            return super().call(graph_module)

    return InCall()


def in_dunder_call(base: type) -> Any:
    class InDunderCall(base):  # type: ignore[misc]
        def __call__(self, graph_module: fx.GraphModule) -> Any:
            _keep_dimension(graph_module)
            return super().__call__(graph_module)

    return InDunderCall()


def in_mixin(base: type) -> Any:
    class Mixin:
        def __call__(self, graph_module: fx.GraphModule) -> Any:
            _keep_dimension(graph_module)
            return super().__call__(graph_module)  # type: ignore[misc]

    class InMixin(Mixin, base):  # type: ignore[misc]
        pass

    return InMixin()


def in_inputs(base: type) -> Any:
    class InInputs(base):  # type: ignore[misc]
        def inputs(self, graph_module: fx.GraphModule) -> Any:
            _keep_dimension(graph_module)
            return super().inputs(graph_module)

    return InInputs()


def in_another_pass(base: type) -> Any:
    class Runs(base):  # type: ignore[misc]
        def call(self, graph_module: fx.GraphModule) -> Any:
            _keep_dimension(graph_module)
            return in_call(base)(base()(graph_module).graph_module)

    return Runs()


def by_another_object(base: type) -> Any:
    class Editor:
        def __init__(self, module: fx.GraphModule) -> None:
            self.nodes = list(module.graph.nodes)

        def edit(self) -> None:
            _keep_dimension(self.nodes[0].graph.owning_module)

    class Holds(base):  # type: ignore[misc]
        def call(self, graph_module: fx.GraphModule) -> Any:
            self.editor = Editor(graph_module)
            return super().call(graph_module)

        def placeholder(self, name: str, arg: Any, meta: Any) -> Any:
            self.editor.edit()
            return super().placeholder(name, arg, meta)

    return Holds()


def in_dunder_call_alone(base: type) -> Any:
    class Propagates(base):  # type: ignore[misc]
        def __call__(self, graph_module: fx.GraphModule) -> Any:
            _keep_dimension(graph_module)
            result = base()(graph_module)
            for node in result.graph_module.graph.nodes:
                node.meta["spec"] = node.name
            return result

        def call(self, graph_module: fx.GraphModule) -> Any:
            return self(graph_module)

    return Propagates()


_WAYS = [in_call, in_dunder_call, in_mixin, in_inputs, in_another_pass, by_another_object, in_dunder_call_alone]


@pytest.mark.parametrize("mode", ["incremental", "full"])
@pytest.mark.parametrize("way", _WAYS)
def test_edited_nodes_are_executed_as_on_torchs_class(way: Callable[[type], Any], mode: str) -> None:
    expected = _values(way(TorchExportPass)(_program().graph_module).graph_module)
    assert expected[0][1] == (2, 1)
    program = _program()
    before = describe_program(program)
    result = run_pipeline(program, [way(ExportPass)], mode=mode)
    assert result.modified
    assert _values(result.program.graph_module) == expected
    assert describe_program(program) == before
    assert {key: entry.from_nodes for key, entry in result.provenance.items()} == {key: (key,) for key in result.provenance}
    assert result.provenance["mean"].made_by is not None
    assert result.provenance["x" if "x" in result.provenance else "args_0"].made_by is (
        "Propagates" if way is in_dunder_call_alone else None
    )
    x = torch.randn(2, 3)
    for made in (result.program, saved_and_loaded(result.program)):
        torch.testing.assert_close(made.module()(x), x.mean(1, keepdim=True).relu() * 2.0)


@pytest.mark.parametrize("way", _WAYS)
def test_in_process_the_graph_module_that_was_given_is_left_alone_too(way: Callable[[type], Any]) -> None:
    program = _program()
    before = describe_program(program)
    result = way(ExportPass)(program.graph_module)
    assert result.modified
    assert result.graph_module is not program.graph_module
    assert describe_program(program) == before


class _Fails(ExportPass):
    def __call__(self, graph_module: fx.GraphModule) -> PassResult:
        _keep_dimension(graph_module)
        super().__call__(graph_module)
        raise ValueError("too late")


def test_program_is_left_alone_where_an_overridden_dunder_call_fails() -> None:
    program = _program()
    before, env = describe_program(program), shape_env_snapshot(program)
    with pytest.raises(ValueError, match="too late"):
        _Fails()(program.graph_module)
    assert describe_program(program) == before
    assert_shape_env_unchanged(env, program)


class _EditsAfterwards(ExportPass):
    def call(self, graph_module: fx.GraphModule) -> PassResult:
        result = super().call(graph_module)
        _keep_dimension(result.graph_module)
        return result


class _EditsWithoutVisit(ExportPass):
    def call(self, graph_module: fx.GraphModule) -> PassResult:
        _keep_dimension(graph_module)
        return PassResult(graph_module, False)


class _EditsWhatItMade(ExportPass):
    def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> Any:
        made = super().call_operator(op, args, kwargs, meta)
        if op is aten.mean.dim:
            made.node.args = (*made.node.args[:2], True)
        return made


def _edits_as_a_function(module: fx.GraphModule) -> None:
    _keep_dimension(module)


@pytest.mark.parametrize("editing", [_EditsAfterwards(), _EditsWithoutVisit(), _EditsWhatItMade(), _edits_as_a_function])
def test_what_is_edited_after_the_last_visit_is_executed_too(editing: Any) -> None:
    program = _program()
    before = describe_program(program)
    result = run_pipeline(program, [editing])
    assert [shape for _, shape, _, _ in _values(result.program.graph_module)] == [(2, 1), (2, 1), (2, 1)]
    assert result.provenance["mean"].made_by is not None
    assert describe_program(program) == before
    validate(result.program)


def test_function_whose_edits_cannot_be_executed_is_told_by_its_name() -> None:
    def drops_an_argument(module: fx.GraphModule) -> None:
        for node in module.graph.find_nodes(op="call_function", target=aten.mul.Tensor):
            node.args = node.args[:1]

    with pytest.raises(RetracedError, match="drops_an_argument failed at node 'mul'"):
        run_pipeline(_program(), [drops_an_argument])


def test_value_that_was_recorded_by_hand_after_the_last_visit_is_taken_as_it_is() -> None:
    def states(module: fx.GraphModule) -> None:
        for node in module.graph.find_nodes(op="call_function", target=aten.relu.default):
            node.meta["val"] = node.meta["val"].to(torch.float64)

    result = run_pipeline(_program(), [states])
    assert [dtype for _, _, dtype, _ in _values(result.program.graph_module)] == [torch.float32, torch.float64, torch.float64]


def test_input_whose_value_was_changed_by_hand_makes_what_reads_it_dirty() -> None:
    def half(base: type) -> Any:
        class Half(base):  # type: ignore[misc]
            def call(self, graph_module: fx.GraphModule) -> Any:
                for node in graph_module.graph.find_nodes(op="placeholder"):
                    node.meta["val"] = node.meta["val"].to(torch.float16)
                return super().call(graph_module)

        return Half()

    expected = _values(half(TorchExportPass)(_program().graph_module).graph_module)
    assert _values(run_pipeline(_program(), [half(ExportPass)]).program.graph_module) == expected


def test_node_inserted_by_hand_needs_no_value_and_may_change_strides() -> None:
    def channels_last(base: type) -> Any:
        class ChannelsLast(base):  # type: ignore[misc]
            def call(self, graph_module: fx.GraphModule) -> Any:
                for node in graph_module.graph.find_nodes(op="call_function", target=aten.conv2d.default):
                    with graph_module.graph.inserting_before(node):
                        format_: dict[str, Any] = {"memory_format": torch.channels_last}
                        clone = graph_module.graph.call_function(aten.clone.default, (node.args[0],), format_)
                    node.update_arg(0, clone)
                graph_module.recompile()
                return super().call(graph_module)

        return ChannelsLast()

    def build() -> ExportedProgram:
        return export(nn.Conv2d(3, 4, 3), torch.randn(1, 3, 8, 8))

    expected = _values(channels_last(TorchExportPass)(build().graph_module).graph_module)
    result = run_pipeline(build(), [channels_last(ExportPass)])
    assert _values(result.program.graph_module) == expected
    assert result.provenance["clone_default"].from_nodes == ()
    assert result.provenance["conv2d"].from_nodes == ("conv2d",)


def test_equal_value_of_an_edited_node_stays_the_old_object() -> None:
    class OtherOperator(ExportPass):
        def call(self, graph_module: fx.GraphModule) -> PassResult:
            for node in graph_module.graph.find_nodes(op="call_function", target=aten.relu.default):
                node.target = aten.sigmoid.default
            return super().call(graph_module)

    program = _program()
    result = run_pipeline(program, [OtherOperator()])
    old = {node.name: node.meta for node in program.graph.nodes}
    assert [str(node.target) for node in result.program.graph.nodes][2] == "aten.sigmoid.default"
    for node in result.program.graph.nodes:
        assert node.meta.get("val") is old[node.name].get("val")
    assert result.reports[0].rewrites == 1
    assert result.provenance["mul"].made_by is None


def test_call_without_dunder_call_executes_what_was_edited_before() -> None:
    program = _program()
    _keep_dimension(program.graph_module)
    result = ExportPass().call(program.graph_module)
    assert result.modified
    assert [shape for _, shape, _, _ in _values(result.graph_module)] == [(2, 1), (2, 1), (2, 1)]


def test_overridden_call_without_dunder_call_edits_in_place_and_says_modified_as_on_torchs_class() -> None:
    for base in (TorchExportPass, ExportPass):
        module = _program().graph_module
        result = in_call(base).call(module)
        assert result.modified
        assert [shape for _, shape, _, _ in _values(result.graph_module)] == [(2, 1), (2, 1), (2, 1)]
        assert module.graph.find_nodes(op="call_function", target=aten.mean.dim)[0].args[2] is True


@pytest.mark.parametrize("name", ["unused_input", "cond", "vit", "preserved_parts"])
def test_call_without_dunder_call_that_changes_nothing_gives_back_what_it_was_given(name: str) -> None:
    program = by_name(name).build()
    before, env = describe_program(program), shape_env_snapshot(program)
    result = ExportPass().call(program.graph_module)
    assert result.graph_module is program.graph_module
    assert not result.modified
    assert describe_program(program) == before
    assert_shape_env_unchanged(env, program)


def test_removed_write_in_place_is_no_longer_seen() -> None:
    class Removes(ExportPass):
        def call(self, graph_module: fx.GraphModule) -> PassResult:
            for node in graph_module.graph.find_nodes(op="call_function", target=aten.unsqueeze_.default):
                node.replace_all_uses_with(node.args[0])
                graph_module.graph.erase_node(node)
            return super().call(graph_module)

    def function(x: torch.Tensor) -> torch.Tensor:
        y = x.clone()
        y.unsqueeze_(0)
        return y.relu()

    result = run_pipeline(export(function, torch.randn(2, 3)), [Removes()])
    assert _values(result.program.graph_module)[-1][1] == (2, 3)
    assert result.program.module()(torch.randn(2, 3)).shape == (2, 3)


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        (slice(0, 1), {}, "missing value for argument 'other'"),
        (slice(0, 2), {"no_such_keyword": 1}, "at most 2 argument"),
        (slice(0, 2), {"other": 1}, "at most 2"),
    ],
)
def test_call_that_its_operator_does_not_take_is_refused_with_the_node_named(args: slice, kwargs: Any, message: str) -> None:
    def breaks(module: fx.GraphModule) -> None:
        for node in module.graph.find_nodes(op="call_function", target=aten.mul.Tensor):
            value = node.meta["val"]
            node.args, node.kwargs = node.args[args], kwargs
            # Recorded by hand, so that the node is not executed.
            node.meta["val"] = value.clone()

    with pytest.raises(RetracedError, match=message) as caught:
        run_pipeline(_program(), ["retrace", breaks])
    assert caught.value.reason is Reason.PASS_OUTPUT_INVALID
    assert caught.value.metadata["node"] == "mul"
    assert caught.value.metadata["target"] == "aten.mul.Tensor"


def test_call_in_a_subgraph_that_its_operator_does_not_take_is_refused_too() -> None:
    def breaks(module: fx.GraphModule) -> None:
        branch = module.get_submodule("true_graph_0")
        assert isinstance(branch, fx.GraphModule)
        node = next(node for node in branch.graph.nodes if node.op == "call_function")
        node.kwargs = {"no_such_keyword": 1}
        node.meta["val"] = node.meta["val"].clone()

    program = export(lambda x: torch.cond(x.sum() > 0, lambda x: x.relu(), lambda x: x.sin(), (x,)), torch.randn(3))
    with pytest.raises(RetracedError, match="at most 1 argument") as caught:
        run_pipeline(program, [breaks])
    assert caught.value.reason is Reason.PASS_OUTPUT_INVALID
    assert (caught.value.metadata["node"], caught.value.metadata["graph"]) == ("relu", "true_graph_0")


def test_numbers_in_the_place_of_tensors_are_taken_where_torch_takes_them() -> None:
    def halves(module: fx.GraphModule) -> None:
        for node in module.graph.find_nodes(op="call_function", target=aten.mul.Tensor):
            node.args = (node.args[0], 0.5)

    assert run_pipeline(_program(), [halves]).modified


def test_edited_call_that_cannot_be_executed_fails_at_its_node() -> None:
    class Breaks(ExportPass):
        def call(self, graph_module: fx.GraphModule) -> PassResult:
            for node in graph_module.graph.find_nodes(op="call_function", target=aten.mul.Tensor):
                node.args = node.args[:1]
            return super().call(graph_module)

    program = _program()
    before = describe_program(program)
    with pytest.raises(PassError, match="missing value for argument 'other'") as caught:
        Breaks()(program.graph_module)
    assert (caught.value.pass_name, caught.value.node) == ("Breaks", "mul")
    assert describe_program(program) == before
