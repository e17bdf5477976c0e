"""A ProxyValue behaves as torch's, but never specialises a program silently."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import fx
from torch._export.pass_infra.proxy_value import ProxyValue as TorchProxyValue

from retraced_server.retrace import ExportPass, ExportPassError, NodeMetadata, PassError, ProxyValue
from tests.support.compare import assert_shape_env_unchanged, shape_env_snapshot
from tests.support.models import by_name

aten = torch.ops.aten
_CONVERSIONS = {"bool": bool, "int": int, "float": float}


def symbolic_values() -> dict[str, ProxyValue[Any]]:
    """What hooks see in the program with symbolic scalars, by node."""
    seen: dict[str, ProxyValue[Any]] = {}

    class Keeps(ExportPass):
        def call_sym(self, target: Any, args: Any, meta: Any) -> ProxyValue[Any]:
            value = super().call_sym(target, args, meta)
            seen[value.node.name] = value
            return value

        def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> ProxyValue[Any]:
            value = super().call_operator(op, args, kwargs, meta)
            seen[value.node.name] = value
            return value

    Keeps()(by_name("everything").program.graph_module)
    Keeps()(by_name("symbolic_scalars").program.graph_module)
    return seen


@pytest.mark.parametrize("conversion", _CONVERSIONS)
@pytest.mark.parametrize("name", ["sym_size_int_1", "truediv", "mul_1", "ge_1", "item", "mul"])
def test_python_value_of_symbolic_data_is_refused_with_the_reason(name: str, conversion: str) -> None:
    program = by_name("symbolic_scalars").program
    before = shape_env_snapshot(program)
    value = symbolic_values()[name]
    with pytest.raises(
        ExportPassError, match=rf"{conversion}\(\) of '{name}' would specialise the program.*before the program runs"
    ):
        _CONVERSIONS[conversion](value)
    assert_shape_env_unchanged(before, program)


@pytest.mark.parametrize("data", [True, False, 0, 3, 2.5])
def test_python_value_of_plain_data_is_the_data(data: Any) -> None:
    value: ProxyValue[Any] = ProxyValue(data, fx.Graph().placeholder("x"))
    assert bool(value) is bool(data)
    assert int(value) == int(data)
    assert float(value) == float(data)


def test_branching_on_a_value_fails_at_the_node() -> None:
    class Branches(ExportPass):
        def call_sym(self, target: Any, args: Any, meta: Any) -> ProxyValue[Any]:
            if args[0]:
                return super().call_sym(target, args, meta)
            return args[1]

    with pytest.raises(PassError, match=r"at node 'truediv'.*s\d+, which is not known before the program runs"):
        Branches()(by_name("symbolic_scalars").program.graph_module)


@pytest.mark.parametrize("kind", [ProxyValue, TorchProxyValue])
def test_values_are_made_and_read_as_torchs_are(kind: Any) -> None:
    graph = fx.Graph()
    node = graph.placeholder("x")
    tensor = torch.ones(2)
    of_node, of_proxy = kind((tensor, tensor), node), kind(tensor, fx.Proxy(node))
    assert of_node.node is of_proxy.node is node
    assert list(of_node) == [tensor, tensor]
    assert of_proxy.proxy.node is node
    assert of_proxy.is_tensor()
    assert not of_node.is_tensor()
    assert of_proxy.to_tensor() is tensor
    with pytest.raises(AssertionError, match="expected Tensor"):
        of_node.to_tensor()
    with pytest.raises(RuntimeError, match="doesn't have attached Proxy"):
        _ = of_node.proxy


def test_metadata_protects_what_the_engine_keeps() -> None:
    meta = NodeMetadata({"val": 1, "custom": {"a": 1}})
    meta["mine"] = 2
    copied = meta.copy()
    copied["other"] = 3
    assert ("mine" in copied, "other" in meta) == (True, False)
    assert copied["custom"] == meta["custom"]
    for key in ("val", "stack_trace", "nn_module_stack", "debug_handle", "tensor_meta"):
        with pytest.raises(RuntimeError, match="Could not override node key"):
            meta[key] = None
    with pytest.raises(KeyError):
        meta["none"]
