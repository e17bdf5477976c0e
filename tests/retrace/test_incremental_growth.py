"""Work grows in step with nodes: function calls are counted, since times differ from machine to machine."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.export import ExportedProgram

from retraced_server.passes import run_pipeline
from retraced_server.retrace import ExportPass, NodeMetadata, PassContext, ProxyValue
from tests.passes.support import export
from tests.support.growth import calls, exponent
from tests.support.large_graphs import as_program, deep_chain, many_expressions, many_subgraphs, many_symbols, wide_graph

pytestmark = pytest.mark.slow

aten = torch.ops.aten
_SIZES = (200, 1600)


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


class AddsInput(ExportPass):
    """Adds an input that nothing reads."""

    def placeholder(self, name: str, arg: Any, meta: NodeMetadata) -> ProxyValue[Any]:
        result = super().placeholder(name, arg, meta)
        if name == "x0":
            super().placeholder("added", arg, NodeMetadata(dict(meta.data)))
        return result


@functools.cache
def _made(make: Callable[[int], fx.GraphModule], size: int) -> fx.GraphModule:
    """A graph, made once: passes leave it as it is."""
    return make(size)


@pytest.mark.parametrize("make", [deep_chain, wide_graph, many_symbols, many_expressions, many_subgraphs])
@pytest.mark.parametrize(
    ("pass_type", "mode"),
    [(ExportPass, "incremental"), (Rewrites, "incremental"), (MakesConstants, "incremental"), (ExportPass, "full")],
)
def test_calls_grow_in_step_with_nodes(make: Callable[[int], fx.GraphModule], pass_type: type[ExportPass], mode: Any) -> None:
    counts = []
    for size in _SIZES:
        module = _made(make, size)

        def run(module: fx.GraphModule = module) -> None:
            with PassContext(mode):
                pass_type()(module)

        run()
        counts.append(calls(run))
    assert exponent(counts, _SIZES) <= 1.1


@pytest.mark.parametrize("pass_type", [Rewrites, AddsInput])
def test_calls_grow_in_step_with_inputs_and_outputs(pass_type: type[ExportPass]) -> None:
    counts = []
    for size in _SIZES:
        program = as_program(wide_graph(size))

        def run(program: ExportedProgram = program) -> None:
            assert run_pipeline(program, [pass_type()]).modified

        run()
        counts.append(calls(run))
    assert exponent(counts, _SIZES) <= 1.1


def _inner_regions(size: int) -> ExportedProgram:
    def rows(x: torch.Tensor) -> Any:
        for _ in range(size):
            x = torch.vmap(lambda value: value.sin() + 1)(x)
        return x

    return export(lambda x: torch.vmap(rows)(x), torch.randn(3, 4))


def _regions_after_a_state_that_is_set(size: int) -> ExportedProgram:
    def mapped(x: torch.Tensor) -> Any:
        for _ in range(size):
            x = torch.vmap(lambda row: row.sin() + 1)(x)
        return x

    program = export(mapped, torch.randn(3, 4))
    with program.graph.inserting_before(next(node for node in program.graph.nodes if node.op == "call_function")):
        program.graph.call_function(torch._C._set_grad_enabled, (False,)).meta["val"] = None
    program.graph_module.recompile()
    return program


@pytest.mark.parametrize("make", [_inner_regions, _regions_after_a_state_that_is_set])
def test_calls_grow_in_step_with_regions(make: Callable[[int], ExportedProgram]) -> None:
    sizes, counts = (4, 32), []
    for size in sizes:
        program = make(size)

        def run(program: ExportedProgram = program) -> None:
            assert not run_pipeline(program, "retrace", mode="full").modified

        run()
        counts.append(calls(run))
    assert exponent(counts, sizes) <= 1.1
