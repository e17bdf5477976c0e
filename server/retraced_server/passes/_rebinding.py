"""Puts a program's own unbacked symbols in the place of those that executing its operators again has made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import sympy
import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.fx.passes.shape_prop import TensorMetadata

from retraced_server.retrace.graphs import walk_graphs


@contextmanager
def only_fresh_renamed(env: ShapeEnv | None) -> Iterator[None]:
    """Keep torch from renaming symbols that are known, when it executes the operators of a program again.

    Torch takes what an operator gives in the place of a symbol of the program for a fresh one (`rebind_unbacked` in
    torch/fx/experimental/symbolic_shapes.py), and fails where it is not: since ranges are known from the start, the size of `x[:n]` is now `n`,
    when at export it had a symbol of its own. Such a symbol is not needed any more.
    """
    if env is None:
        yield
        return
    rename, known = env._rename_unbacked_to, set(env.var_to_range)

    def rename_fresh(symbol: sympy.Symbol, name: sympy.Symbol) -> None:
        if symbol not in known and symbol not in env.unbacked_renamings:
            rename(symbol, name)

    vars(env)["_rename_unbacked_to"] = rename_fresh
    try:
        yield
    finally:
        del vars(env)["_rename_unbacked_to"]


def equate(env: ShapeEnv, renaming: Mapping[sympy.Symbol, sympy.Symbol]) -> None:
    """Tells a shape environment that symbols are equal to others, which it does not find out by itself."""
    if renaming:
        env.replacements.update(renaming)
        env._replacements_version_counter += 1
        env._update_version_counter()


def rebind(root: fx.GraphModule, env: ShapeEnv, stale: set[sympy.Symbol]) -> None:
    """Rewrites the values recorded in a program, subgraphs included, so that they do without symbols which are equal to others.

    Args:
        root: The program's graph module; its nodes' metadata is changed.
        env: The shape environment, in which each of the symbols has a replacement.
        stale: The symbols.
    """
    rebinding = _Rebinding(env, stale)
    for _, module in walk_graphs(root):
        for node in module.graph.nodes:
            rebinding.rebind(node)


class _Rebinding:
    def __init__(self, env: ShapeEnv, stale: set[sympy.Symbol]) -> None:
        self._env = env
        self._stale = stale
        # The identity of a storage -> a tensor on the storage in its place, so that views stay views.
        self._bases: dict[int, torch.Tensor] = {}

    def rebind(self, node: fx.Node) -> None:
        for key in ("val", "tensor_meta"):
            if key in node.meta:
                node.meta[key] = self._value(node.meta[key])
        bindings = node.meta.get("unbacked_bindings")
        if bindings:
            node.meta["unbacked_bindings"] = {self._env.replace(symbol): path for symbol, path in bindings.items()}

    # A recorded value is whatever an operator returns.
    def _value(self, value: Any) -> Any:
        if isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool)):
            return self._symbolic(value)
        if isinstance(value, FakeTensor):
            return self._tensor(value)
        if isinstance(value, TensorMetadata):
            return value._replace(shape=torch.Size(self._sizes(value.shape)), stride=self._sizes(value.stride))
        if isinstance(value, (tuple, list)):
            return type(value)([self._value(item) for item in value])
        return value

    def _symbolic(self, value: Any) -> Any:
        node = value.node
        # `expr` has the replacements applied, `_expr` is what the value was made with.
        if not node._expr.free_symbols & self._stale:
            return value
        if isinstance(value, torch.SymInt):
            return self._env.create_symintnode(node.expr, hint=node._hint)
        if isinstance(value, torch.SymFloat):
            return self._env.create_symfloatnode(node.expr, hint=node._hint)
        return self._env.create_symboolnode(node.expr)

    def _sizes(self, sizes: Any) -> tuple[Any, ...]:
        return tuple(self._value(size) for size in sizes)

    def _tensor(self, value: FakeTensor) -> torch.Tensor:
        if value.layout is not torch.strided:
            return value
        storage = value.untyped_storage()
        described = (*value.shape, *value.stride(), value.storage_offset(), storage.nbytes())
        if not any(isinstance(size, torch.SymInt) and size.node._expr.free_symbols & self._stale for size in described):
            return value
        shape, strides = self._sizes(value.shape), self._sizes(value.stride())
        offset = self._value(value.storage_offset())
        with self._env.suppress_guards(), value.fake_mode, torch.no_grad():
            base = self._bases.get(storage._cdata)
            if base is None:
                length = self._value(storage.nbytes()) // value.element_size()
                base = self._bases[storage._cdata] = torch.empty((length,), dtype=value.dtype, device=value.device)
            rebuilt = base.view(value.dtype).as_strided(shape, strides, offset)
        return rebuilt.detach().requires_grad_(value.requires_grad)
