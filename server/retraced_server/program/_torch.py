"""The private parts of torch that reading and writing touch, checked against torch 2.13.0."""

from __future__ import annotations

from typing import Any

import sympy
import torch
from torch import fx
from torch._decomp import decomposition_table
from torch._export.serde import schema
from torch._export.serde.serialize import serialize_torch_artifact
from torch.fx._lazy_graph_module import _LazyGraphModule
from torch.fx.experimental.symbolic_shapes import ShapeEnv, _free_unbacked_symbols_with_path
from torch.utils import _pytree as pytree
from torch.utils._traceback import CapturedTraceback

SCHEMA_VERSION: tuple[int, int] = schema.SCHEMA_VERSION
TORCH_VERSION: str = str(torch.__version__)
OPSET_VERSION: int = torch._C._get_max_operator_version()


def remember_stack(shape_env: ShapeEnv, symbol: sympy.Symbol) -> None:
    """Says where a symbol was made; torch looks it up when it reports a failed constraint."""
    shape_env.var_to_stack[symbol] = CapturedTraceback.extract(skip=1)


def allow_absent_device(device: torch.device) -> None:
    """Lets torch make fake tensors of a device that this machine does not have."""
    if device.type != "cpu":
        # FakeTensorMode does so on entry; without it, some operators on CUDA fake tensors abort the process.
        torch._C._ensureCUDADeviceGuardSet()
        # A torch that is built without CUDA has no guard at all, and Python's operator `~`, by which torch decomposes this, asks for one.
        decomposition_table[torch.ops.aten.logical_not.default] = _logical_not


def _logical_not(value: torch.Tensor) -> torch.Tensor:
    """What torch/_refs/__init__.py makes of it, by functions in the place of Python's operators."""
    return torch.bitwise_not(value) if value.dtype is torch.bool else torch.eq(value, 0)


def lazy_graph_module(root: torch.nn.Module, graph: fx.Graph) -> fx.GraphModule:
    """A graph module whose code is made, and executed, when somebody calls it or looks at it, and not before."""
    return _LazyGraphModule(root, graph)


def graph_module_attributes() -> frozenset[str]:
    """Return what every graph module has, so that no subgraph of it may have the name: class, instance, and what code leaves behind."""
    empty = fx.Graph()
    return frozenset(name for make in (fx.GraphModule, lazy_graph_module) for name in dir(make(torch.nn.Module(), empty)))


def unbacked_bindings(value: object, shape_env: ShapeEnv, fresh: set[sympy.Symbol]) -> dict[sympy.Symbol, pytree.KeyPath]:
    """Where in a value the fresh unbacked symbols are made; those found are taken out of `fresh`."""
    return _free_unbacked_symbols_with_path(value, (), shape_env=shape_env, pending=fresh, simplify=True)


def serialize_example_inputs(inputs: tuple[tuple[Any, ...], dict[str, Any]]) -> bytes:
    """Pickles the sample inputs of a program that was made in this process, as `torch.export.save` does."""
    written: bytes = serialize_torch_artifact(inputs)
    return written
