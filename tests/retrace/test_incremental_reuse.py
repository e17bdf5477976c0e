"""What an incremental retrace does not do: execute, compile, copy or forget what a pass has left as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import fx
from torch.export import Dim

from retraced_server.passes import run_pipeline
from retraced_server.retrace import ExportPass, NodeMetadata, ProxyValue, pass_context
from tests.support.case import ProgramCase
from tests.support.compare import assert_shape_env_unchanged, loaded, shape_env_snapshot, validate
from tests.support.describe import graphs
from tests.support.executed import Executed
from tests.support.models import by_name, by_tag
from tests.support.passes import ReluToClamp

aten = torch.ops.aten


class CopyOf(ExportPass):
    """Copies the result of the node of one name."""

    def __init__(self, name: str, op: Any = aten.clone.default) -> None:
        super().__init__()
        self.name = name
        self.op = op

    def call_operator(self, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any], meta: NodeMetadata) -> ProxyValue[Any]:
        visited = pass_context().node
        assert visited is not None
        name = visited.name
        result = super().call_operator(op, args, kwargs, meta)
        return super().call_operator(self.op, (result,), {}, meta) if name == self.name else result


@pytest.mark.usefixtures("_nothing_known")
def test_nothing_is_executed_for_a_pass_that_changes_nothing(any_case: ProgramCase) -> None:
    module = any_case.program.graph_module
    with Executed() as executed:
        ExportPass()(module)
    # Without a recorded value there is nothing to reuse.
    recorded = all(
        "val" in n.meta or n.op in ("output", "get_attr")
        for _, m in graphs(any_case.program.graph_module)
        for n in m.graph.nodes
    )
    assert not executed.operators or not recorded


@pytest.mark.usefixtures("_nothing_known")
def test_only_what_a_pass_made_is_executed_where_its_metadata_is_that_of_what_it_replaced() -> None:
    program = by_name("bert").program
    with Executed() as executed:
        result = run_pipeline(program, [CopyOf("linear_3")])
    assert result.modified
    assert executed.operators == [aten.clone.default]


def test_changed_metadata_makes_dirty_what_follows_until_it_is_equal_again() -> None:
    class Halves(ExportPass):
        def call_operator(self, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any], meta: NodeMetadata) -> ProxyValue[Any]:
            result = super().call_operator(op, args, kwargs, meta)
            if op is not aten.sigmoid.default:
                return result
            return super().call_operator(aten.to.dtype, (result, torch.float64), {}, meta)

    class Model(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.where(x.sigmoid().sin() > 0, 1.0, 2.0).cos()

    program = torch.export.export(Model(), (torch.randn(3, 4),))
    with Executed() as executed:
        result = run_pipeline(program, [Halves()])
    assert executed.operators == [aten.to.dtype, aten.sin.default, aten.gt.Scalar]
    values = {node.name: node.meta["val"] for node in result.program.graph.nodes if node.op == "call_function"}
    before = {node.name: node.meta["val"] for node in program.graph.nodes if node.op == "call_function"}
    assert values["sin"].dtype is torch.float64
    assert values["gt"] is before["gt"]
    assert values["cos"] is before["cos"]


@pytest.mark.parametrize("case", by_tag("higher-order"), ids=repr)
def test_subgraph_that_a_pass_left_alone_is_the_same_object(case: ProgramCase) -> None:
    class AddsOutput(ExportPass):
        def output(self, results: Any, meta: NodeMetadata) -> ProxyValue[Any]:
            if pass_context().graph_path:
                return super().output(results, meta)
            return super().output(type(results)([*results, results[-1]]), meta)

    result = AddsOutput()(case.program.graph_module)
    assert result.modified
    before = dict(graphs(case.program.graph_module))
    after = dict(graphs(result.graph_module))
    assert before.keys() == after.keys()
    assert all(after[path] is before[path] for path in before if path)


def test_consecutive_passes_share_values() -> None:
    program = by_name("residual_net").program
    once = run_pipeline(program, [CopyOf("linear")]).program
    twice = run_pipeline(once, [CopyOf("conv2d")]).program
    recorded = {id(node.meta["val"]) for node in program.graph.nodes if "val" in node.meta}
    made = [node for node in twice.graph.nodes if "val" in node.meta and id(node.meta["val"]) not in recorded]
    assert len(made) == 2


def test_unmodified_pass_gives_the_graph_module_it_was_given_to_the_next() -> None:
    given: list[fx.GraphModule] = []

    class Watches(ExportPass):
        def requires(self, graph_module: fx.GraphModule) -> None:
            given.append(graph_module)

    program = by_name("llama").program
    result = run_pipeline(program, [Watches(), Watches(), Watches()])
    assert result.program is program
    assert all(module is program.graph_module for module in given)


@contextmanager
def _compiles_nothing(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("graph code was generated")

    with monkeypatch.context() as patch:
        patch.setattr(fx.Graph, "python_code", refuse)
        yield


@pytest.mark.parametrize("mode", ["incremental", "full"])
@pytest.mark.parametrize(
    "name", ["cond", "while_loop", "nested", "map", "scan", "set_grad", "invoke_subgraph", "everything", "bert"]
)
def test_no_graph_code_is_generated(name: str, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class CopiesInputs(ExportPass):
        def placeholder(self, name: str, arg: Any, meta: NodeMetadata) -> ProxyValue[Any]:
            value = super().placeholder(name, arg, meta)
            if not isinstance(value.data, torch.Tensor):
                return value
            return super().call_operator(aten.clone.default, (value,), {}, self._create_dummy_node_metadata())

    program = by_name(name).program
    with _compiles_nothing(monkeypatch):
        # Bodies and operators above them are made anew, and executed.
        changed = run_pipeline(program, [ReluToClamp(), CopiesInputs()], mode=mode)
    assert changed.modified
    validate(changed.program)


def test_program_made_anew_has_the_attributes_that_torchs_constructor_sets() -> None:
    program = by_name("bert").program
    made = run_pipeline(program, [CopyOf("linear")]).program
    assert vars(made).keys() == vars(program).keys()
    assert type(made) is type(program)


def test_program_made_anew_runs() -> None:
    case = by_name("bert")
    made = run_pipeline(case.program, [CopyOf("linear")]).program
    args, kwargs = case.inputs()[0]
    for ours, expected in zip(made.module()(*args, **kwargs), case.program.module()(*args, **kwargs), strict=True):
        torch.testing.assert_close(ours, expected)


class _Recorder(ExportPass):
    def __init__(self) -> None:
        super().__init__()
        self.called: list[Any] = []

    def call_operator(self, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any], meta: NodeMetadata) -> ProxyValue[Any]:
        self.called.append(op)
        return super().call_operator(op, args, kwargs, meta)

    def call_getitem(self, value: ProxyValue[Any], key: int, meta: NodeMetadata) -> ProxyValue[Any]:
        self.called.append("getitem")
        return super().call_getitem(value, key, meta)

    def call_sym(self, target: Any, args: tuple[Any, ...], meta: NodeMetadata) -> ProxyValue[Any]:
        self.called.append(target)
        return super().call_sym(target, args, meta)


class _ReluRecorder(_Recorder, only={aten.relu.default}):
    """Looks at relu alone."""


@pytest.mark.parametrize("mode", ["incremental", "full"])
@pytest.mark.parametrize("name", ["nested", "while_loop", "symbolic_scalars", "multiple_results", "residual_net", "everything"])
def test_hooks_are_called_for_declared_targets_only_in_every_graph(name: str, mode: str) -> None:
    program = by_name(name).program
    recorder = _ReluRecorder()
    assert run_pipeline(program, [recorder], mode=mode).program is program
    relus = [n for _, m in graphs(program.graph_module) for n in m.graph.nodes if n.target is aten.relu.default]
    assert recorder.called == [aten.relu.default] * len(relus)


@pytest.mark.parametrize("mode", ["incremental", "full"])
@pytest.mark.parametrize("name", ["nested", "scan", "in_place", "cond_with_item", "quantized"])
def test_pass_with_declared_targets_does_what_it_does_without(name: str, mode: str) -> None:
    class Declared(ReluToClamp, only={aten.relu.default}):
        pass

    program = by_name(name).program
    declared, undeclared = (run_pipeline(program, [made()], mode=mode) for made in (Declared, ReluToClamp))
    assert declared.modified is undeclared.modified
    assert str(declared.program.graph) == str(undeclared.program.graph)


def test_node_without_a_hook_reads_what_a_hook_made_of_its_inputs() -> None:
    class Splits(ExportPass, only={aten.split.sizes, aten.chunk.default, aten.split_with_sizes.default}):
        def call_operator(self, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any], meta: NodeMetadata) -> Any:
            whole = super().call_operator(aten.clone.default, args[:1], {}, meta)
            return tuple(super(Splits, self).call_operator(aten.sin.default, (whole,), {}, meta) for _ in range(2))

    class Model(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            first, second = torch.split(x, [2, 2])
            return torch.cat([first, second])

    program = torch.export.export(Model(), (torch.randn(4, 3),))
    result = run_pipeline(program, [Splits()]).program
    assert [n.target for n in result.graph.nodes if n.op == "call_function"] == [
        aten.clone.default,
        aten.sin.default,
        aten.sin.default,
        aten.cat.default,
    ]
    assert result.graph.output_node().args[0][0].meta["val"].shape == (8, 3)


@pytest.mark.parametrize("mode", ["incremental", "full"])
def test_node_without_a_hook_reads_the_constant_that_a_hook_returned_after_making_the_node(mode: str) -> None:
    class ScaleIsTwo(ExportPass, only={aten.sym_size.int}):
        def call_operator(self, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any], meta: NodeMetadata) -> Any:
            super().call_operator(op, args, kwargs, meta)
            return 2

    class Model(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * x.shape[0]

    program = torch.export.export(Model(), (torch.randn(4, 3),), dynamic_shapes=({0: Dim("rows", min=2, max=8)},))
    result = run_pipeline(program, [ScaleIsTwo()], mode=mode).program
    assert [n.args[1] for n in result.graph.nodes if n.target is aten.mul.Tensor] == [2]


def test_hook_that_runs_operators_of_its_own_runs_them_on_fake_tensors() -> None:
    kinds: list[type] = []

    class Computes(ExportPass):
        def call_operator(self, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any], meta: NodeMetadata) -> ProxyValue[Any]:
            kinds.append(type(torch.ones(2)))
            return super().call_operator(op, args, kwargs, meta)

    program = by_name("bert").program
    env_before = shape_env_snapshot(program)
    Computes()(program.graph_module)
    assert {kind.__name__ for kind in kinds} == {"FakeTensor"}
    assert_shape_env_unchanged(env_before, program)


@pytest.mark.parametrize("name", ["bert", "t5", "residual_net", "everything", "nested"])
def test_what_a_pass_leaves_of_a_program_read_from_a_file_keeps_its_values(name: str) -> None:
    program = loaded(by_name(name).archive)
    before = {node.name: node.meta.get("val") for node in program.graph.nodes}

    class CopiesMatrices(ExportPass):
        def call_operator(self, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any], meta: NodeMetadata) -> ProxyValue[Any]:
            result = super().call_operator(op, args, kwargs, meta)
            if op not in (aten.linear.default, aten.relu.default, aten.add.Tensor):
                return result
            return super().call_operator(aten.clone.default, (result,), {}, meta)

    result = run_pipeline(program, [CopiesMatrices()])
    assert result.modified
    after = {node.name: node.meta.get("val") for node in result.program.graph.nodes}
    kept = sum(after[name] is value for name, value in before.items() if value is not None)
    assert kept == sum(value is not None for value in before.values())
