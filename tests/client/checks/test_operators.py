"""Names of operators that are taken of any server."""

from __future__ import annotations

import pytest

from retraced.checks.operators import Operators
from retraced.checks.refusal import Refused
from retraced_pt2.operators import DEFAULT_NAMESPACES


@pytest.mark.parametrize("namespace", sorted(DEFAULT_NAMESPACES - {"prim"}))
def test_operators_of_every_namespace_that_servers_read_by_default_are_taken(namespace: str) -> None:
    Operators(()).check(f"torch.ops.{namespace}.all_reduce.default")


@pytest.mark.parametrize("name", ["torch.ops.aten.add._Tensor", "torch.ops._c10d_functional.all_reduce.__class__"])
def test_an_overload_that_begins_with_an_underscore_is_none(name: str) -> None:
    with pytest.raises(Refused, match="is no operator"):
        Operators(()).check(name)
