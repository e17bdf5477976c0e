"""Puts a program's own unbacked symbols in the place of those that executing its operators again has made."""

from __future__ import annotations

from typing import Any

import sympy
import torch
from torch import fx

from retraced_server.analysis.graphs import walk_graphs
from retraced_server.torch_compat.fake_tensors import FakeTensor, TensorMetadata, storage_key, with_sizes
from retraced_server.torch_compat.symbolic_shapes import SYMBOLIC, ShapeEnv, raw_expression, rebuilt


def rebind(root: fx.GraphModule, env: ShapeEnv, stale: set[sympy.Symbol]) -> None:
    """Rewrite the values recorded in a program, subgraphs included, so that they do without symbols which are equal to others.

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
        if isinstance(value, SYMBOLIC):
            return self._symbolic(value)
        if isinstance(value, FakeTensor):
            return self._tensor(value)
        if isinstance(value, TensorMetadata):
            return with_sizes(value, self._sizes(value.shape), self._sizes(value.stride))
        if isinstance(value, (tuple, list)):
            return type(value)([self._value(item) for item in value])
        return value

    def _symbolic(self, value: Any) -> Any:
        return rebuilt(value, self._env) if self._is_stale(value) else value

    def _is_stale(self, value: Any) -> bool:
        return isinstance(value, SYMBOLIC) and bool(raw_expression(value).free_symbols & self._stale)

    def _sizes(self, sizes: Any) -> tuple[Any, ...]:
        return tuple(self._value(size) for size in sizes)

    def _tensor(self, value: FakeTensor) -> torch.Tensor:
        if value.layout is not torch.strided:
            return value
        storage = value.untyped_storage()
        described = (*value.shape, *value.stride(), value.storage_offset(), storage.nbytes())
        if not any(map(self._is_stale, described)):
            return value
        shape, strides = self._sizes(value.shape), self._sizes(value.stride())
        offset = self._value(value.storage_offset())
        with self._env.suppress_guards(), value.fake_mode, torch.no_grad():
            base = self._bases.get(storage_key(storage))
            if base is None:
                length = self._value(storage.nbytes()) // value.element_size()
                base = self._bases[storage_key(storage)] = torch.empty((length,), dtype=value.dtype, device=value.device)
            rebuilt = base.view(value.dtype).as_strided(shape, strides, offset)
        return rebuilt.detach().requires_grad_(value.requires_grad)
