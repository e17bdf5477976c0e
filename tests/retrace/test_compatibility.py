"""What passes of public code rely on beside the hooks, as torch's class and ExecuTorch's have it."""

from __future__ import annotations

import operator
from typing import Any

import pytest
import torch
from torch import fx, nn
from torch._export.pass_infra.node_metadata import NodeMetadata as TorchNodeMetadata
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import Dim, ExportedProgram
from torch.fx.graph import CodeGen

from retraced_server import retrace
from retraced_server.passes import run_pipeline
from retraced_server.retrace import ExportPass, ExportPassError, NodeMetadata, PassError, ProxyValue, map_args
from tests.support.compare import validate
from tests.support.passes import ReluToClamp, TorchExportPass, canonical

aten = torch.ops.aten


def _program(dynamic: bool = False) -> ExportedProgram:
    class Model(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean(1).relu() * 2.0

    shapes = ({0: Dim("rows", min=2, max=64), 1: Dim("columns", min=2, max=64)},) if dynamic else None
    return torch.export.export(Model(), (torch.randn(4, 6),), dynamic_shapes=shapes)


def _both(make: Any, program: Any = _program) -> tuple[fx.GraphModule, fx.GraphModule]:
    """What a pass makes of a graph on our class and on torch's."""
    ours, stock = (make(base)()(program().graph_module).graph_module for base in (ExportPass, TorchExportPass))
    return ours, stock


# -- metadata of new nodes -----------------------------------------------------------------------------------------------------------


def _with_constant(base: type) -> type:
    class AddsConstant(base):  # type: ignore[misc]
        def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> Any:
            if op is aten.mul.Tensor:
                with torch.utils._python_dispatch._disable_current_modes():
                    args = (args[0], torch.tensor(3.0))
            return super().call_operator(op, args, kwargs, meta)

    return AddsConstant


def test_constant_has_the_metadata_of_the_node_that_it_is_made_for() -> None:
    mine, theirs = (next(iter(module.graph.find_nodes(op="get_attr"))) for module in _both(_with_constant))
    # `seq_nr` is what autograd counts while torch interprets.
    assert mine.meta.keys() == theirs.meta.keys() - {"seq_nr"}
    for key in ("stack_trace", "nn_module_stack", "torch_fn"):
        assert mine.meta[key] == theirs.meta[key]
    (made_for,), (expected,) = mine.meta["from_node"], theirs.meta["from_node"]
    assert (made_for.name, made_for.target, made_for.action) == (expected.name, expected.target, expected.action)


def test_constants_metadata_is_no_hindrance_to_writing() -> None:
    result = run_pipeline(_program(), [_with_constant(ExportPass)()])
    validate(result.program)
    torch.testing.assert_close(result.program.module()(torch.ones(4, 6)), torch.full((4,), 3.0))


def test_nodes_that_are_new_have_tensor_metadata_as_on_torchs_class() -> None:
    def make(base: type) -> type:
        class Splits(base):  # type: ignore[misc]
            def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> Any:
                if op is not aten.mean.dim:
                    return super().call_operator(op, args, kwargs, meta)
                halves = super().call_operator(aten.split.Tensor, (args[0], 2), {}, NodeMetadata({}))
                first = super().call_getitem(halves, 0, NodeMetadata({}))
                return super().call_operator(op, (first, *args[1:]), kwargs, NodeMetadata({}))

        return Splits

    ours, stock = (
        [(n.target, n.meta["tensor_meta"]) for n in module.graph.nodes if n.name in ("split", "getitem", "mean")]
        for module in _both(make)
    )
    # Of a fake tensor the value says all.
    assert ours == [(aten.split.Tensor, [None, None]), (operator.getitem, None), (aten.mean.dim, None)]
    assert [meta for _, meta in stock] == [meta for _, meta in ours]


def test_nodes_that_stay_keep_the_metadata_that_they_have() -> None:
    program = _program()
    result = run_pipeline(program, [ReluToClamp()])
    assert result.modified
    for old, new in list(zip(program.graph.nodes, result.program.graph.nodes, strict=True))[:2]:
        assert new.meta.keys() == old.meta.keys()
        assert all(new.meta[key] is value for key, value in old.meta.items())


# -- the interpreter, and the node as text -------------------------------------------------------------------------------------------


def test_interpreter_of_the_pass_executes_operators_without_a_node() -> None:
    def make(base: type) -> type:
        class Asks(base):  # type: ignore[misc]
            def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> Any:
                if op is aten.relu.default:
                    data = self.interpreter.call_function(aten.unsqueeze.default, (args[0].data, 0), {})
                    assert data.shape == (1, *args[0].data.shape)
                return super().call_operator(op, args, kwargs, meta)

        return Asks

    ours, stock = _both(make)
    assert canonical(ours) == canonical(stock)


def test_node_as_text_can_be_assigned_until_the_next_node() -> None:
    def make(base: type) -> type:
        class Assigns(base):  # type: ignore[misc]
            def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> Any:
                running: Any = self
                seen.append(running.node_debug_str)
                running.node_debug_str = "mine"
                seen.append(running.node_debug_str)
                return super().call_operator(op, args, kwargs, meta)

        return Assigns

    texts = []
    for base in (ExportPass, TorchExportPass):
        seen: list[str | None] = []
        instance: Any = make(base)()
        instance.node_debug_str = "before"
        assert instance.node_debug_str == "before"
        instance(_program().graph_module)
        texts.append(seen)
    assert texts[0] == texts[1]
    assert texts[0][1::2] == ["mine"] * 3


# -- numbers -------------------------------------------------------------------------------------------------------------------------


def test_plain_number_is_an_index_and_a_symbolic_one_raises() -> None:
    node = fx.Graph().placeholder("n")
    assert [10, 20, 30][ProxyValue(2, node)] == 30
    assert list(range(ProxyValue(3, node))) == [0, 1, 2]
    size = next(iter(_program(dynamic=True).graph.nodes)).meta["val"].shape[0]
    with pytest.raises(ExportPassError, match=r"index\(\) of 'n' would specialise the program.*symbolic expression s"):
        operator.index(ProxyValue(size, node))
    with pytest.raises(ExportPassError, match=r"its value is a tensor"):
        operator.index(ProxyValue(torch.tensor(1), node))


def test_sizes_are_numbers_or_calls() -> None:
    sizes: list[Any] = []

    class Sizes(ExportPass):
        def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> Any:
            if op is aten.mean.dim:
                sizes.append(self.call_size_operator_all(args[0], meta))
                reshaped = super().call_operator(aten.view.default, (args[0], sizes[-1]), {}, meta)
                return super().call_operator(op, (reshaped, *args[1:]), kwargs, meta)
            return super().call_operator(op, args, kwargs, meta)

    assert run_pipeline(_program(), [Sizes()]).modified
    assert sizes == [[4, 6]]
    program = run_pipeline(_program(dynamic=True), [Sizes()]).program
    validate(program)
    assert all(isinstance(size, ProxyValue) for size in sizes[1])
    made = [node.args for node in program.graph.nodes if node.target is aten.sym_size.int]
    assert [(args[0].name, args[1]) for args in made] == [("x", 0), ("x", 1)]


def _expands_to(sizes: Any) -> type[ExportPass]:
    """Gives raw symbolic numbers as arguments."""

    class Expands(ExportPass):
        def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> Any:
            if op is not aten.relu.default:
                return super().call_operator(op, args, kwargs, meta)
            positive = super().call_operator(op, args, kwargs, meta)
            shape = sizes(args[0].data.shape[0])
            whole = super().call_operator(aten.new_zeros.default, (args[0], shape), {}, meta)
            total = super().call_operator(aten.sum.default, (whole,), {}, meta)
            return super().call_operator(aten.add.Tensor, (positive, total), {}, meta)

    return Expands


@pytest.mark.parametrize(
    "sizes",
    [
        lambda s: [s],
        lambda s: [s * 2 + 1, s],
        lambda s: [s * s, 3],
        lambda s: [s // 2 + 1],
        lambda s: [s % 3 + 1],
        lambda s: [torch.sym_max(s, 7)],
    ],
    ids=["size", "sum", "product", "quotient", "remainder", "maximum"],
)
def test_raw_symbolic_number_is_computed_from_a_size_of_an_input(sizes: Any) -> None:
    program = _program(dynamic=True)
    result = run_pipeline(program, [_expands_to(sizes)()])
    assert result.reports[0].new_guards == ()
    validate(result.program)
    for rows in (3, 9):
        x = torch.randn(rows, 5)
        torch.testing.assert_close(result.program.module()(x), program.module()(x))
    made = next(node for node in result.program.graph.nodes if node.target is aten.new_zeros.default)
    for size in made.args[1]:
        assert isinstance(size, (int, fx.Node))


def test_raw_symbolic_number_is_read_from_the_node_that_computes_it() -> None:
    class Model(nn.Module):
        def forward(self, x: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
            count: Any = n.item()
            torch._check(count >= 2)
            torch._check(count <= 8)
            return x.relu() + torch.zeros(count).sum()

    class Reads(ExportPass):
        def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> Any:
            if op is aten.zeros.default:
                return super().call_operator(aten.ones.default, ([args[0][0].data],), kwargs, meta)
            return super().call_operator(op, args, kwargs, meta)

    program = torch.export.export(Model(), (torch.randn(4), torch.tensor(3)))
    result = run_pipeline(program, [Reads()]).program
    ones = next(node for node in result.graph.nodes if node.target is aten.ones.default)
    assert ones.args[0][0].name == next(node for node in program.graph.nodes if node.target is aten.item.default).name
    validate(result)


def test_raw_symbolic_number_that_nothing_computes_is_refused() -> None:
    size = next(iter(_program(dynamic=True).graph.nodes)).meta["val"].shape[0]
    other = size.node.shape_env.create_unbacked_symint()

    class Gives(ExportPass):
        def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> Any:
            return super().call_operator(aten.mul.Scalar, (args[0], other), {}, meta)

    with pytest.raises(
        PassError, match=r"symbolic number u\d+ was given as an argument, but no node computes u\d+: give the ProxyValue"
    ):
        Gives()(_program().graph_module)


# -- inputs --------------------------------------------------------------------------------------------------------------------------


def test_input_that_loses_its_symbols_is_an_error_unless_it_is_meant() -> None:
    class Collapses(ExportPass):
        meant = False

        def should_preserve_symbolic_input_metadata(self) -> bool:
            return not self.meant

        def placeholder(self, name: str, arg: Any, meta: Any) -> ProxyValue[Any]:
            value = super().placeholder(name, arg, meta)
            value.node.meta["val"] = torch.empty(2, 3, device="meta")
            return value

    collapses = Collapses()
    with pytest.raises(ExportPassError, match="Input at position 0 did not preserve symbolic metadata"):
        collapses(_program(dynamic=True).graph_module)
    collapses.meant = True
    result = collapses(_program(dynamic=True).graph_module)
    assert next(iter(result.graph_module.graph.nodes)).meta["val"].shape == (2, 3)
    collapses.meant = False
    assert collapses(_program().graph_module).modified


def test_input_that_keeps_its_symbols_may_be_renamed() -> None:
    class Renames(ExportPass):
        def placeholder(self, name: str, arg: Any, meta: Any) -> ProxyValue[Any]:
            return super().placeholder(f"renamed_{name}", arg, meta)

    assert run_pipeline(_program(dynamic=True), [Renames()]).program.graph_signature.user_inputs == ("renamed_x",)


# -- arguments by their schema -------------------------------------------------------------------------------------------------------


def test_arguments_are_changed_by_their_entry_in_the_schema() -> None:
    seen: list[tuple[Any, str]] = []

    def note(argument: Any, schema: Any) -> Any:
        seen.append((argument, schema.name))
        return f"{argument}'"

    args, kwargs = ("x", "dims"), {"keepdim": True, "dtype": "half"}
    assert map_args(aten.mean.dim, note, args, kwargs) == (("x'", "dims'"), {"keepdim": "True'", "dtype": "half'"})
    assert seen == [("x", "self"), ("dims", "dim"), (True, "keepdim"), ("half", "dtype")]
    assert (args, kwargs) == (("x", "dims"), {"keepdim": True, "dtype": "half"})
    # A keyword-only argument is never meant by position.
    assert map_args(aten.add.Tensor, note, ("a", "b", "c"), {})[0] == ("a'", "b'", "c")


# -- hooks outside of a run ----------------------------------------------------------------------------------------------------------


def _builder(base: type) -> Any:
    """A pass whose hooks build a graph, as ExecuTorch's graph builder does: without the constructor of the class."""

    class Builder(base):  # type: ignore[misc]
        def __init__(self) -> None:
            self.fake_tensor_mode = FakeTensorMode(allow_non_fake_inputs=True)
            self.tracer = self.ExportTracer(self, CodeGen())
            self.tracer.fake_tensor_mode = self.fake_tensor_mode
            self.interpreter = fx.Interpreter(fx.GraphModule(nn.Module(), fx.Graph()))

        def _fx(self, *arguments: Any) -> Any:
            with self.fake_tensor_mode:
                return super()._fx(*arguments)

    return Builder()


def _build(base: type, metadata: Any) -> fx.GraphModule:
    builder = _builder(base)
    x = builder.placeholder("x", builder.fake_tensor_mode.from_tensor(torch.ones(4, 2)), metadata({}))
    halves = builder.call_operator(aten.split.Tensor, (x, 2), {}, metadata({}))
    first = builder.call_getitem(halves, 0, metadata({}))
    total = builder.call_operator(aten.add.Tensor, (first, torch.full((2,), 3.0)), {"alpha": 2}, metadata({"note": 1}))
    builder.output([total], metadata({}))
    return fx.GraphModule(builder.tracer.root, builder.tracer.graph)


def test_hooks_build_a_graph_outside_of_a_run_as_on_torchs_class() -> None:
    ours = _build(ExportPass, NodeMetadata)
    stock = _build(TorchExportPass, TorchNodeMetadata)
    assert canonical(ours) == canonical(stock)
    assert [node.name for node in ours.graph.nodes] == [node.name for node in stock.graph.nodes]
    assert [set(node.meta) for node in ours.graph.nodes] == [set(node.meta) for node in stock.graph.nodes]
    x = torch.randn(4, 2)
    torch.testing.assert_close(ours(x), stock(x))


def test_graph_that_hooks_built_can_be_retraced() -> None:
    module = _build(ExportPass, NodeMetadata)
    assert ExportPass()(module).graph_module is module


def _doubled(size: tuple[int, ...]) -> fx.GraphModule:
    builder = _builder(ExportPass)
    x = builder.placeholder("x", builder.fake_tensor_mode.from_tensor(torch.ones(size)), NodeMetadata({}))
    builder.output([builder.call_operator(aten.add.Tensor, (x, x), {}, NodeMetadata({}))], NodeMetadata({}))
    return fx.GraphModule(builder.tracer.root, builder.tracer.graph)


def test_hooks_for_higher_order_operators_take_subgraphs_as_they_are_outside_of_a_run() -> None:
    builder = _builder(ExportPass)
    x = builder.placeholder("x", builder.fake_tensor_mode.from_tensor(torch.ones(4, 2)), NodeMetadata({}))
    subgraph = _doubled((2,))
    mapped = builder.call_map(subgraph, [x], [], NodeMetadata({}))
    builder.output([builder.call_getitem(mapped, 0, NodeMetadata({}))], NodeMetadata({}))
    module = fx.GraphModule(builder.tracer.root, builder.tracer.graph)
    (read,) = module.graph.find_nodes(op="get_attr")
    assert getattr(module, str(read.target)) is subgraph
    x = torch.randn(4, 2)
    torch.testing.assert_close(module(x)[0], x * 2)
    with pytest.raises(retrace.ExportPassBaseError, match="set `fake_tensor_mode` of its tracer"):
        ExportPass().call_submodule(subgraph, (x,))


def test_names_of_torchs_and_executorchs_module_are_there() -> None:
    assert issubclass(retrace.ExportPassBaseError, RuntimeError)
    with pytest.raises(retrace.ExportPassBaseError):
        ExportPass().call_operator(aten.relu.default, (), {}, NodeMetadata({}))
