"""Passes that can be built on torch's own base class and on ours, to compare the two."""

from __future__ import annotations

import importlib
import inspect
import operator
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import fx
from torch._export.pass_base import _ExportPassBaseDeprecatedDoNotUse

from retraced_server import retrace
from retraced_server.retrace import ExportPass, NodeMetadata, ProxyValue, pass_context

aten = torch.ops.aten

#: Torch's own base class of passes.
TorchExportPass = _ExportPassBaseDeprecatedDoNotUse

# The imports of torch's passes, and what takes their place: a user changes these lines and nothing else.
_IMPORTS = (
    ("from torch._export.pass_base import (\n    _ExportPassBaseDeprecatedDoNotUse,\n    Argument,\n    PassResult,\n)\n", ""),
    ("from torch._export.pass_base import _ExportPassBaseDeprecatedDoNotUse\n", ""),
    ("from torch._export.pass_infra.node_metadata import NodeMetadata\n", ""),
    ("from torch._export.pass_infra.proxy_value import ProxyValue\n", ""),
)
_NEW_IMPORTS = "from retraced_server.retrace import Argument, ExportPass, NodeMetadata, PassResult, ProxyValue\n"


def with_imports_changed(module_name: str) -> ModuleType:
    """Loads one of torch's pass modules with its imports changed to ours, and nothing else."""
    source = inspect.getsource(importlib.import_module(module_name))
    for old, new in _IMPORTS:
        source = source.replace(old, new)
    source = source.replace("import torch\n", "import torch\n" + _NEW_IMPORTS, 1)
    source = source.replace("_ExportPassBaseDeprecatedDoNotUse", "ExportPass")
    assert "torch._export.pass" not in source
    module = ModuleType(f"{module_name}_on_our_base")
    exec(compile(source, module.__name__, "exec"), module.__dict__)
    return module


def remove_noop_pass(base: type) -> type:
    """Drops dropouts in evaluation, copies to the dtype a value has, and views and slices that give back what they take."""

    class RemoveNoopPass(base):  # type: ignore[misc]
        def call_operator(self, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any], meta: Any) -> Any:
            if op in (aten.dropout.default, aten.native_dropout.default) and not args[2]:
                return args[0]
            if op is aten.to.dtype and args[0].to_tensor().dtype == args[1]:
                return args[0]
            if op in (aten.view.default, aten.reshape.default, aten.expand.default):
                shape = args[0].to_tensor().shape
                if all(type(size) is int for size in (*shape, *args[1])) and list(shape) == list(args[1]):
                    return args[0]
            if op is aten.slice.Tensor and self._takes_all(args):
                return args[0]
            return super().call_operator(op, args, kwargs, meta)

        @staticmethod
        def _takes_all(args: tuple[Any, ...]) -> bool:
            start, end, step = [*args[2:], None, None, None][:3]
            whole = end is None or (type(end) is int and end == torch.iinfo(torch.int64).max)
            return start in (None, 0) and whole and step in (None, 1)

    return RemoveNoopPass


def scalars_to_tensors_pass(base: type) -> type:
    """Gives binary operators tensors instead of Python numbers, made by `aten.full` with the dtype that the result has."""
    overloads = {
        aten.add.Scalar: aten.add.Tensor,
        aten.sub.Scalar: aten.sub.Tensor,
        aten.mul.Scalar: aten.mul.Tensor,
        aten.div.Scalar: aten.div.Tensor,
        aten.pow.Tensor_Scalar: aten.pow.Tensor_Tensor,
        aten.gt.Scalar: aten.gt.Tensor,
        aten.add.Tensor: aten.add.Tensor,
        aten.sub.Tensor: aten.sub.Tensor,
        aten.mul.Tensor: aten.mul.Tensor,
        aten.div.Tensor: aten.div.Tensor,
    }

    class ScalarsToTensorsPass(base):  # type: ignore[misc]
        def call_operator(self, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any], meta: Any) -> Any:
            if op not in overloads or len(args) != 2 or type(args[1]) not in (int, float):
                return super().call_operator(op, args, kwargs, meta)
            tensor = args[0].to_tensor()
            dtype = torch.result_type(torch.empty(0, dtype=tensor.dtype), args[1])
            scalar = super().call_operator(
                aten.full.default, ((), args[1]), {"dtype": dtype, "device": tensor.device, "pin_memory": False}, meta
            )
            return super().call_operator(overloads[op], (args[0], scalar), kwargs, meta)

    return ScalarsToTensorsPass


def linear_to_mm_pass(base: type) -> type:
    """Writes `aten.linear` as transpose, matmul and addition, several nodes for one."""

    class LinearToMatmulPass(base):  # type: ignore[misc]
        def call_operator(self, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any], meta: Any) -> Any:
            if op is not aten.linear.default:
                return super().call_operator(op, args, kwargs, meta)
            x, weight = args[:2]
            bias = args[2] if len(args) > 2 else kwargs.get("bias")
            transposed = super().call_operator(aten.t.default, (weight,), {}, meta)
            product = super().call_operator(aten.matmul.default, (x, transposed), {}, meta)
            return product if bias is None else super().call_operator(aten.add.Tensor, (product, bias), {}, meta)

    return LinearToMatmulPass


def constants_pass(base: type) -> type:
    """Replaces additions of the number 1 by additions of a tensor constant that the pass makes."""

    class ConstantsPass(base):  # type: ignore[misc]
        def call_operator(self, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any], meta: Any) -> Any:
            if op is aten.add.Tensor and args[1] == 1 and type(args[1]) is int:
                return super().call_operator(op, (args[0], torch.tensor(1, dtype=args[0].to_tensor().dtype)), kwargs, meta)
            return super().call_operator(op, args, kwargs, meta)

    return ConstantsPass


EXECUTORCH_STYLE: dict[str, Callable[[type], type]] = {
    "remove_noop": remove_noop_pass,
    "scalars_to_tensors": scalars_to_tensors_pass,
    "linear_to_mm": linear_to_mm_pass,
}


class ReluTwice(retrace.ExportPass):
    """Replaces relu by two operators that compute the same, in every graph."""

    def call_operator(self, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any], meta: Any) -> Any:
        if op is not aten.relu.default:
            return super().call_operator(op, args, kwargs, meta)
        positive = super().call_operator(aten.gt.Scalar, (args[0], 0), {}, meta)
        return super().call_operator(aten.mul.Tensor, (positive, args[0]), {}, meta)


class ReluToClamp(retrace.ExportPass):
    """Replaces relu by one operator that computes the same, in every graph."""

    def call_operator(self, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any], meta: Any) -> Any:
        if op is aten.relu.default:
            return super().call_operator(aten.clamp_min.default, (args[0], 0), {}, meta)
        return super().call_operator(op, args, kwargs, meta)


def run_torch_pass(program: torch.export.ExportedProgram, pass_type: type) -> torch.export.ExportedProgram:
    """Runs a pass on torch's own base class on a whole program."""
    assert issubclass(pass_type, TorchExportPass)
    return program._transform_do_not_use(pass_type())


def canonical(module: fx.GraphModule) -> list[Any]:
    """A graph without the names of nodes, attributes and unbacked symbols: what two engines must agree on.

    Strides and storage offsets are left out: ours keeps the recorded ones where torch's records what executing again gives. A packet is
    written as its only overload: ours resolves packets, since a program with one cannot be saved.
    """
    symbols: dict[str, str] = {}
    numbers = {node: index for index, node in enumerate(module.graph.nodes)}

    def text(size: Any) -> str:
        if not isinstance(size, (torch.SymInt, torch.SymFloat, torch.SymBool)):
            return str(size)
        expression = size.node.expr
        unbacked = sorted((s for s in expression.free_symbols if s.name.startswith(("u", "zuf"))), key=lambda s: s.name)
        renamed = {s: type(s)(symbols.setdefault(s.name, f"unbacked{len(symbols)}"), integer=True) for s in unbacked}
        return str(expression.xreplace(renamed))

    def value(leaf: Any) -> Any:
        if isinstance(leaf, torch.Tensor):
            return (str(leaf.dtype), [text(size) for size in leaf.shape], str(leaf.device), str(leaf.layout))
        if isinstance(leaf, (list, tuple)):
            return [value(item) for item in leaf]
        return text(leaf)

    def argument(leaf: Any) -> Any:
        if isinstance(leaf, fx.Node):
            target = _attribute(module, leaf)
            return canonical(target) if isinstance(target, fx.GraphModule) else numbers[leaf]
        if isinstance(leaf, (list, tuple)):
            return [argument(item) for item in leaf]
        if isinstance(leaf, dict):
            return {key: argument(item) for key, item in leaf.items()}
        return repr(leaf)

    def described(node: fx.Node) -> tuple[Any, ...]:
        named = node.op in ("placeholder", "get_attr")
        recorded = value(node.meta.get("val")) if node.op == "call_function" else None
        return (node.op, "" if named else _target(node), argument(node.args), argument(node.kwargs), recorded)

    return [described(node) for node in module.graph.nodes]


def _target(node: fx.Node) -> str:
    if isinstance(node.target, torch._ops.OpOverloadPacket):
        (overload,) = node.target.overloads()
        return f"{node.target}.{overload}"
    return str(node.target)


def _attribute(module: fx.GraphModule, node: fx.Node) -> Any:
    return operator.attrgetter(str(node.target))(module) if node.op == "get_attr" else None


class Hooked(ExportPass):
    """Hands the call of the operator of one node, by name, to a function, with the pass's own `call_operator`."""

    def __init__(self, **changes: Any) -> None:
        super().__init__()
        self.changes = changes

    def call_operator(self, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any], meta: NodeMetadata) -> ProxyValue[Any]:
        visited = pass_context().node
        assert visited is not None
        change = self.changes.get(visited.name)
        call = super().call_operator
        result: ProxyValue[Any] = call(op, args, kwargs, meta) if change is None else change(call, op, args, kwargs, meta)
        return result
