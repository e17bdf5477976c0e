"""Graphs of any size, made node by node: exporting them would take longer than what is done with them."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
import torch.utils._pytree as pytree
from torch import fx, nn
from torch._export.verifier import TrainingIRVerifier
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import ExportedProgram, ModuleCallEntry, ModuleCallSignature
from torch.export.graph_signature import ExportGraphSignature, InputKind, InputSpec, OutputKind, OutputSpec, TensorArgument
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext, compute_unbacked_bindings

from retraced_server.program import assemble_program

aten = torch.ops.aten
_BODY_CALLS = 8
_WIDTH, _HEADS = 32, 4


class _Builder:
    """Makes a graph, executing each node under fake tensors."""

    def __init__(self, mode: FakeTensorMode | None = None) -> None:
        self.mode = mode or FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
        self.root = nn.Module()
        self.graph = fx.Graph()

    @property
    def env(self) -> ShapeEnv:
        env = self.mode.shape_env
        assert env is not None
        return env

    def input(self, name: str, *size: int, dtype: torch.dtype = torch.float32) -> fx.Node:
        node = self.graph.placeholder(name)
        with self.mode:
            node.meta["val"] = torch.empty(size, dtype=dtype)
        return node

    def dynamic_input(self, name: str, *size: int) -> fx.Node:
        """An input of which every dimension is a symbol."""
        node = self.graph.placeholder(name)
        context: Any = StatelessSymbolicContext(dynamic_sizes=[DimDynamic.DYNAMIC] * len(size))
        node.meta["val"] = self.mode.from_tensor(torch.empty(size), symbolic_context=context)
        return node

    def call(self, op: Any, *args: Any) -> fx.Node:
        node = self.graph.call_function(op, args)
        with self.mode:
            node.meta["val"] = op(*fx.map_arg(args, lambda value: value.meta["val"]))
        if bindings := compute_unbacked_bindings(self.env, node.meta["val"]):
            node.meta["unbacked_bindings"] = bindings
        return node

    def cond(self, predicate: fx.Node, number: int, operand: fx.Node, subgraphs: Mapping[str, fx.GraphModule]) -> fx.Node:
        """A cond whose branches give one value, like its operand."""
        names = [f"{name}_{number}" for name in subgraphs]
        for name, subgraph in zip(names, subgraphs.values(), strict=True):
            self.root.add_module(name, subgraph)
        branches = [self.graph.get_attr(name) for name in names]
        node = self.graph.call_function(torch.ops.higher_order.cond, (predicate, *branches, (operand,)))
        with self.mode:
            node.meta["val"] = (torch.empty_like(operand.meta["val"]),)
        return self.call(operator.getitem, node, 0)

    def module(self, *results: fx.Node) -> fx.GraphModule:
        self.graph.output(results)
        return fx.GraphModule(self.root, self.graph)


def deep_chain(count: int) -> fx.GraphModule:
    """Each node reads the one before: calls, views and in-place calls."""
    builder = _Builder()
    x = value = builder.input("x", 4, 4)
    for _ in range(count // 4):
        value = builder.call(aten.relu.default, value)
        value = builder.call(aten.view.default, value, [4, 4])
        value = builder.call(aten.add.Tensor, value, x)
        value = builder.call(aten.relu_.default, value)
    return builder.module(value)


def wide_graph(count: int) -> fx.GraphModule:
    """As many inputs and outputs as there can be."""
    builder = _Builder()
    inputs = [builder.input(f"x{number}", 4, 4) for number in range(count // 3)]
    return builder.module(*[builder.call(aten.sin.default, builder.call(aten.relu.default, value)) for value in inputs])


def many_symbols(count: int) -> fx.GraphModule:
    """Unbacked symbols, one for every four nodes."""
    builder = _Builder()
    results = []
    for number in range(count // 4):
        size = builder.call(aten.item.default, builder.input(f"n{number}", dtype=torch.int64))
        builder.call(aten.sym_constrain_range_for_size.default, size)
        results.append(builder.call(aten.full.default, [size], 1))
    return builder.module(*results)


def many_expressions(count: int) -> fx.GraphModule:
    """Sizes that are all different expressions of one symbol, one for every two nodes."""
    builder = _Builder()
    x = builder.dynamic_input("x", 5)
    results = [
        builder.call(aten.relu.default, builder.call(aten.constant_pad_nd.default, x, [0, more]))
        for more in range(1, count // 2 + 1)
    ]
    return builder.module(results[-1])


def many_subgraphs(count: int) -> fx.GraphModule:
    """Conds one after the other, each with two subgraphs of some nodes."""
    builder = _Builder()
    predicate, value = builder.input("p", dtype=torch.bool), builder.input("x", 4, 4)
    for number in range(count // (2 * _BODY_CALLS + 8)):
        subgraphs = {
            "true_graph": _subgraph(builder.mode, aten.relu.default),
            "false_graph": _subgraph(builder.mode, aten.sin.default),
        }
        value = builder.cond(predicate, number, value, subgraphs)
    return builder.module(value)


def wide_fan_out(count: int) -> fx.GraphModule:
    """One node with as many results as there can be, each taken by a node of its own, which are all used by one."""
    builder = _Builder()
    results = builder.call(aten.unbind.int, builder.input("x", count // 2, 4))
    items = [builder.call(operator.getitem, results, position) for position in range(count // 2)]
    for item in items:
        builder.call(aten.relu.default, item)
    return builder.module(builder.call(aten.stack.default, items))


def equal_calls(count: int) -> fx.GraphModule:
    """Calls with the same arguments whose results have sizes of their own."""
    builder = _Builder()
    x = builder.input("x", 4)
    return builder.module(*[builder.call(aten.nonzero.default, x) for _ in range(count)])


def layers(count: int) -> fx.GraphModule:
    """Transformer layers one after the other, of calls that decompose, with a dynamic batch and length. All have the same weights."""
    builder = _Builder()
    x = builder.dynamic_input("x", 3, 9, _WIDTH)
    scale, shift = builder.input("scale", _WIDTH), builder.input("shift", _WIDTH)
    weights = [builder.input(f"weight{number}", _WIDTH, _WIDTH) for number in range(6)]
    call = builder.call
    batch, length = call(aten.sym_size.int, x, 0), call(aten.sym_size.int, x, 1)
    value = call(aten.view.default, x, [batch, length, _WIDTH])
    for _ in range(count):
        normed = call(aten.layer_norm.default, value, [_WIDTH], scale, shift)
        heads = []
        for weight in weights[:3]:
            split = call(
                aten.view.default, call(aten.linear.default, normed, weight), [batch, length, _HEADS, _WIDTH // _HEADS]
            )
            heads.append(call(aten.transpose.int, split, 1, 2))
        attended = call(aten.transpose.int, call(aten.scaled_dot_product_attention.default, *heads), 1, 2)
        joined = call(aten.linear.default, call(aten.reshape.default, attended, [batch, length, _WIDTH]), weights[3], shift)
        value = call(aten.add.Tensor, value, joined)
        hidden = call(aten.linear.default, call(aten.layer_norm.default, value, [_WIDTH], scale, shift), weights[4])
        value = call(aten.add.Tensor, value, call(aten.linear.default, call(aten.silu.default, hidden), weights[5]))
    return builder.module(value)


def as_program(module: fx.GraphModule) -> ExportedProgram:
    """A program whose inputs and outputs are all the caller's tensors."""
    inputs = [TensorArgument(node.name) for node in module.graph.find_nodes(op="placeholder")]
    results = cast("tuple[fx.Node, ...]", module.graph.output_node().args[0])
    outputs = [TensorArgument(node.name) for node in results]
    signature = ExportGraphSignature(
        [InputSpec(InputKind.USER_INPUT, argument, None) for argument in inputs],
        [OutputSpec(OutputKind.USER_OUTPUT, argument, None) for argument in outputs],
    )
    takes, gives = pytree.tree_structure((tuple(inputs), {})), pytree.tree_structure(tuple(outputs))
    first = next(iter(module.graph.nodes)).meta["val"]
    return assemble_program(
        module,
        signature,
        state_dict={},
        constants={},
        ranges=first.fake_mode.shape_env.var_to_range,
        module_calls=[ModuleCallEntry("", ModuleCallSignature([*inputs], [*outputs], takes, gives))],
        verifiers=[TrainingIRVerifier],
    )


def _subgraph(mode: FakeTensorMode, op: Callable[..., Any]) -> fx.GraphModule:
    builder = _Builder(mode)
    value = builder.input("arg0_1", 4, 4)
    for _ in range(_BODY_CALLS):
        value = builder.call(op, value)
    return builder.module(value)
