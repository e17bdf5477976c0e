"""Arithmetic that is remembered gives what torch computes, of the shape environment that it is remembered of alone."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.export import Dim
from torch.fx.experimental.sym_node import SymNode

from retraced_server.torch_compat.symbolic_arithmetic import remembered_arithmetic

_OPERATIONS = (
    *(
        operator.add,
        operator.sub,
        operator.mul,
        operator.floordiv,
        operator.mod,
        operator.eq,
        operator.ne,
        operator.lt,
        operator.le,
    ),
    *(operator.gt, operator.ge, torch.sym_max, torch.sym_min),
)


def _sizes() -> list[torch.SymInt]:
    rows, columns = Dim("rows", min=2, max=64), Dim("columns", min=2, max=64)
    program = torch.export.export(torch.nn.Identity(), (torch.randn(6, 4),), dynamic_shapes={"input": {0: rows, 1: columns}})
    (placeholder,) = program.graph.find_nodes(op="placeholder")
    return list(placeholder.meta["val"].shape)


_SIZES = _sizes()


def _numbers() -> st.SearchStrategy[Any]:
    leaves = st.sampled_from(range(4)) | st.integers(1, 5)
    return st.lists(st.tuples(st.sampled_from(_OPERATIONS), leaves, leaves), min_size=1, max_size=12)


def _computed(steps: list[tuple[Callable[..., Any], int, int]]) -> list[tuple[Any, Any, Any]]:
    numbers: list[Any] = [*_SIZES, *_SIZES]
    found = []
    for operation, left, right in steps:
        try:
            result = operation(numbers[left % len(numbers)], numbers[right % len(numbers)] if right % 2 else right)
        except ZeroDivisionError:
            continue
        if isinstance(result, torch.SymInt):
            numbers.append(result)
        node = getattr(result, "node", None)
        found.append((type(result), result if node is None else node.expr, None if node is None else node.hint))
    return found


@given(_numbers())
def test_remembered_arithmetic_is_that_of_torch(steps: list[tuple[Callable[..., Any], int, int]]) -> None:
    expected = _computed(steps)
    with remembered_arithmetic(_SIZES[0].node.shape_env):
        assert _computed(steps) == expected
        assert _computed(steps) == expected


def test_operations_are_done_once_and_of_one_shape_environment() -> None:
    size, (other, _) = _SIZES[0], _sizes()
    with remembered_arithmetic(size.node.shape_env):
        assert (size * 3).node is (size * 3).node
        assert (other * 3).node is not (other * 3).node
    assert (size * 3).node is not (size * 3).node


def test_torch_computes_as_before_whatever_is_raised() -> None:
    before = {name: vars(SymNode)[name] for name in ("add", "mul", "eq")}
    with pytest.raises(RuntimeError, match="stopped"), remembered_arithmetic(_SIZES[0].node.shape_env):
        raise RuntimeError("stopped")
    assert before == {name: vars(SymNode)[name] for name in before}
