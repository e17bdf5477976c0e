"""Arithmetic of symbolic numbers, done once for the same operands. Checked with torch 2.13.0."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch.fx.experimental.sym_node import SymNode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

# What they give is told by the expressions of their operands. That of `mod` depends on ranges too, which change.
_METHODS = (
    "add",
    "sub",
    "mul",
    "floordiv",
    "int_floordiv",
    "pow_by_natural",
    "sym_max",
    "sym_min",
    "eq",
    "ne",
    "lt",
    "le",
    "gt",
    "ge",
    "and_",
    "or_",
)
_Method = Callable[[SymNode, SymNode], SymNode]
_ORIGINAL: dict[str, _Method] = {name: getattr(SymNode, name) for name in _METHODS}


@contextmanager
def remembered_arithmetic(shape_env: ShapeEnv | None) -> Iterator[None]:
    """Have what operations on the symbolic numbers of a shape environment give remembered for the time of the context.

    Nine in ten operations that fake kernels ask for, as when they look whether a tensor is contiguous, are repetitions, and each takes sympy
    and torch 20 microseconds. Where two threads do this at a time, one of them remembers nothing.
    """
    for name, method in _ORIGINAL.items():
        setattr(SymNode, name, _remembering(method, shape_env))
    try:
        yield
    finally:
        for name, method in _ORIGINAL.items():
            setattr(SymNode, name, method)


def _remembering(method: _Method, shape_env: ShapeEnv | None) -> _Method:
    known: dict[tuple[Any, ...], SymNode] = {}

    def remembered(self: SymNode, other: SymNode) -> SymNode:
        if self.shape_env is not shape_env or other.shape_env is not shape_env:
            return method(self, other)
        key = (self.expr, other.expr, self.pytype, other.pytype)
        result = known.get(key)
        if result is None:
            result = known[key] = method(self, other)
        return result

    return remembered
