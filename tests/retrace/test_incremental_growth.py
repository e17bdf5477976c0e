"""Work grows in step with nodes: function calls are counted, since times differ from machine to machine."""

from __future__ import annotations

import cProfile
import math
import pstats
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.fx.experimental.symbolic_shapes import ShapeEnv, compute_unbacked_bindings

from retraced_server.retrace import ExportPass, NodeMetadata, ProxyValue

aten = torch.ops.aten
_SIZES = (500, 4000)


class _Builder:
    """Makes graphs node by node, executing each under fake tensors: exporting would take longer than what is measured."""

    def __init__(self) -> None:
        self.env = ShapeEnv()
        self.mode = FakeTensorMode(shape_env=self.env, allow_non_fake_inputs=True)
        self.graph = fx.Graph()

    def input(self, name: str, *size: int, dtype: torch.dtype = torch.float32) -> fx.Node:
        node = self.graph.placeholder(name)
        with self.mode:
            node.meta["val"] = torch.empty(size, dtype=dtype)
        return node

    def call(self, op: Any, *args: Any) -> fx.Node:
        node = self.graph.call_function(op, args)
        with self.mode:
            node.meta["val"] = op(*fx.map_arg(args, lambda value: value.meta["val"]))
        if bindings := compute_unbacked_bindings(self.env, node.meta["val"]):
            node.meta["unbacked_bindings"] = bindings
        return node

    def module(self, *results: fx.Node) -> fx.GraphModule:
        self.graph.output(results)
        return fx.GraphModule(nn.Module(), self.graph)


def deep_chain(count: int) -> fx.GraphModule:
    builder = _Builder()
    x = value = builder.input("x", 4, 4)
    for _ in range(count // 4):
        value = builder.call(aten.relu.default, value)
        value = builder.call(aten.view.default, value, [4, 4])
        value = builder.call(aten.add.Tensor, value, x)
        value = builder.call(aten.relu_.default, value)
    return builder.module(value)


def wide_graph(count: int) -> fx.GraphModule:
    builder = _Builder()
    inputs = [builder.input(f"x{number}", 4, 4) for number in range(count // 3)]
    return builder.module(*[builder.call(aten.sin.default, builder.call(aten.relu.default, value)) for value in inputs])


def many_symbols(count: int) -> fx.GraphModule:
    builder = _Builder()
    results = []
    for number in range(count // 4):
        size = builder.call(aten.item.default, builder.input(f"n{number}", dtype=torch.int64))
        builder.call(aten.sym_constrain_range_for_size.default, size)
        results.append(builder.call(aten.full.default, [size], 1))
    return builder.module(*results)


class Rewrites(ExportPass):
    """Copies the result of every twentieth operator."""

    seen = 0

    def call_operator(self, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any], meta: NodeMetadata) -> ProxyValue[Any]:
        result = super().call_operator(op, args, kwargs, meta)
        self.seen += 1
        if self.seen % 20 or not isinstance(result.data, torch.Tensor):
            return result
        return super().call_operator(aten.clone.default, (result,), {}, meta)


class MakesConstants(ExportPass):
    """Gives every tenth addition a constant of its own."""

    seen = 0

    def call_operator(self, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any], meta: NodeMetadata) -> ProxyValue[Any]:
        self.seen += 1
        if op is aten.relu.default and self.seen % 10 == 1:
            return super().call_operator(aten.maximum.default, (args[0], _constant()), {}, meta)
        return super().call_operator(op, args, kwargs, meta)


def _constant() -> torch.Tensor:
    with unset_fake_temporarily():
        return torch.zeros(())


def _calls(task: Callable[[], object]) -> int:
    profile = cProfile.Profile()
    profile.runcall(task)
    # The attribute is missing in typeshed.
    return int(pstats.Stats(profile).total_calls)  # type: ignore[attr-defined]


@pytest.mark.parametrize("make", [deep_chain, wide_graph, many_symbols])
@pytest.mark.parametrize(
    ("pass_type", "mode"),
    [(ExportPass, "incremental"), (Rewrites, "incremental"), (MakesConstants, "incremental"), (ExportPass, "full")],
)
def test_calls_grow_in_step_with_nodes(make: Callable[[int], fx.GraphModule], pass_type: type[ExportPass], mode: Any) -> None:
    counts = []
    for size in _SIZES:
        module = make(size)

        def run(module: fx.GraphModule = module) -> None:
            visiting = pass_type()
            visiting.mode = mode
            visiting(module)

        run()
        counts.append(_calls(run))
    exponent = math.log(counts[1] / counts[0]) / math.log(_SIZES[1] / _SIZES[0])
    assert exponent <= 1.1
