"""The operators that may stand in a program, by the names that the schema gives them.

A name is looked up in closed tables; of `torch.ops` those on the closed list of this torch version are found, those of namespaces that whoever
runs the server allows, and single ones that they allow. torch walks from module `torch` by `getattr` instead, and so reaches any function.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import keyword
from dataclasses import dataclass
from typing import Any, Final, cast

import torch

from retraced_pt2.errors import shortened
from retraced_pt2.limits import LONGEST_NAME
from retraced_pt2.operators import DEFAULT_NAMESPACES, HIGHER_ORDER, ORDERED, higher_order_name, split_operator
from retraced_server.analysis.namespaces import DEFAULT_MODULES, how_to_allow
from retraced_server.analysis.targets import FUNCTIONS_BY_NAME, PRIM, Target
from retraced_server.program.errors import program_invalid, program_unsupported
from retraced_server.program.operator_lists import listed_operators
from retraced_server.program.operator_lists.unlisted import why_unlisted
from retraced_server.torch_compat.operators import HigherOrderOperator, OpOverload, registered_operators, schema_of

# What is allowed wherever a server runs is registered wherever programs are read: in a zygote, before it forks.
for _module in DEFAULT_MODULES:
    if torch.distributed.is_available() or not _module.startswith("torch.distributed."):
        importlib.import_module(_module)

_EXPLAINED: Final = {
    "torch.ops.export.access_subclass_inner_tensor.default": "it takes a tensor subclass apart, and archives have no such tensors but "
    "pickled ones; take them apart before the export, with `unwrap_tensor_subclass`",
}
"""Operators that are never read, with the reason."""

# They read files, call other machines, warn or change settings of the process. `aten::_print` prints only where a program is run, and torch
# keeps it in order.
_REFUSED: Final = frozenset(
    (
        *("aten::from_file", "aten::from_file.out", "aten::dist_backward", "aten::warn"),
        *("aten::_cufft_set_plan_cache_max_size", "aten::_cufft_clear_plan_cache"),
    )
)
# What the arguments and results of a tensor operator are made of. Others, `Any` above all, are of TorchScript's own operators.
_KINDS: Final = frozenset(
    (
        *("TensorType", "IntType", "SymIntType", "FloatType", "BoolType", "SymBoolType", "NumberType", "ComplexType"),
        *("StringType", "DeviceObjType", "GeneratorType", "NoneType"),
    )
)
_CONTAINERS: Final = frozenset(("OptionalType", "ListType"))


@dataclass(frozen=True, slots=True)
class SchemaArgument:
    """An argument of an operator, as far as its place in a call depends on it."""

    name: str
    kwarg_only: bool
    has_default: bool
    is_keyword: bool


def operator_name(target: Target | str) -> str:
    """Return the name that the schema gives to an operator or a function."""
    if isinstance(target, str):
        return target
    module: str = target.__module__
    return f"{module.replace('torch._ops', 'torch.ops') if module.startswith('torch._ops') else module}.{target.__name__}"


class Operators:
    """Finds the operators of one program.

    Args:
        namespaces: Namespaces whose operators are allowed, besides the usual.
        operators: Single operators that are allowed, such as `aten._sobol_engine_draw.default`, besides those on the list.
    """

    def __init__(self, namespaces: frozenset[str], operators: frozenset[str] = frozenset()) -> None:
        self._namespaces = namespaces
        self._operators = operators
        self._found: dict[str, Target] = {}

    def find(self, name: str) -> Target:
        """Return the operator of a name.

        Raises:
            RetracedError: PROGRAM_INVALID where it is none, PROGRAM_UNSUPPORTED where it is unknown here or not allowed.
        """
        found = self._found.get(name)
        if found is None:
            found = self._found[name] = self._find(name)
        return found

    def find_operator(self, name: str) -> OpOverload | HigherOrderOperator:
        """Return the operator of a name that stands in the place of an argument: one that only computes with tensors, or prints.

        Raises:
            RetracedError: PROGRAM_INVALID where it is no operator, PROGRAM_UNSUPPORTED where it is unknown here or not allowed.
        """
        found = self.find(name)
        if isinstance(found, HigherOrderOperator) and found.name() in ORDERED:
            return found
        if not isinstance(found, OpOverload):
            raise program_invalid(
                f"`{shortened(name, 200)}` cannot stand in a program as an argument: it is no operator of tensors"
            )
        return found

    def _find(self, name: str) -> Target:
        if name in FUNCTIONS_BY_NAME:
            return FUNCTIONS_BY_NAME[name]
        if len(name) > LONGEST_NAME:
            raise program_unsupported(f"an operator has a name of {len(name)} characters, and {LONGEST_NAME} are the most")
        if higher_order := higher_order_name(name):
            if higher_order in HIGHER_ORDER:
                return cast(Target, getattr(torch.ops.higher_order, higher_order))
            raise _unknown(name, "this higher-order operator is not read")
        parts = split_operator(name)
        if parts is None:
            if name.startswith("#"):
                raise _unknown(name, "operators of serialization extensions are not read")
            if name.startswith("executorch."):
                # torch writes the name of any callable, and resolves those of `torch` alone.
                raise _unknown(
                    name,
                    "torch.export.save writes operators of ExecuTorch's dialects, and torch.export.load cannot resolve them; send the "
                    "program as it was before `to_edge`, and run passes on edge programs in process (docs/executorch.md)",
                )
            raise program_invalid(
                f"`{shortened(name, 200)}` cannot stand in a program: it is neither of `torch.ops` nor a function that programs may "
                "call",
                operator=name[:200],
            )
        namespace, packet, overload = parts
        if name in _EXPLAINED:
            raise _unknown(name, _EXPLAINED[name])
        by_name = f"{namespace}.{packet}.{overload}"
        if not (namespace in DEFAULT_NAMESPACES or namespace in self._namespaces or by_name in self._operators):
            advice = how_to_allow(namespace, registered=_is_registered(namespace))
            raise _unknown(name, f"the namespace `{namespace}` is not allowed: {advice}")
        found = getattr(getattr(getattr(torch.ops, namespace), packet, None), overload, None)
        if not isinstance(found, OpOverload):
            raise _unknown(name, "no such operator is registered in the server")
        if namespace in DEFAULT_NAMESPACES:
            check_harmless(found)
            if by_name not in listed_operators() and by_name not in self._operators:
                raise _unknown(
                    name,
                    f"it is not on the list of operators that every server reads, since {why_unlisted(by_name)}; a server reads it that was "
                    f"started with `serve --allow-operator {by_name}`",
                )
        return found


def _is_registered(namespace: str) -> bool:
    return any(name.startswith(f"{namespace}::") for name in registered_operators())


def check_harmless(op: OpOverload) -> None:
    """Check that an operator only computes with tensors and plain values, by its name and its schema.

    Raises:
        RetracedError: PROGRAM_UNSUPPORTED: it does more, or takes or gives objects.
    """
    name, schema = operator_name(op), schema_of(op)
    if op.name() in _REFUSED or (op.namespace == "prim" and op.name() not in PRIM):
        raise _unknown(name, "it does more than compute")
    # Python is told of it only so.
    if "..." in str(schema):
        raise _unknown(name, "it takes or gives any number of anything")
    for value in (*schema.arguments, *schema.returns):
        kind = value.type
        while kind.kind() in _CONTAINERS:
            kind = kind.getElementType()
        # A process group is given by its name in archives, and by itself while a program is made.
        is_group = op.namespace == "_c10d_functional" and value.name == "group_name"
        if kind.kind() not in _KINDS and not is_group:
            raise _unknown(name, f"its argument or result `{value.name}` is of type {kind}")


@functools.cache
def schema_arguments(op: OpOverload) -> tuple[SchemaArgument, ...]:
    """Return the arguments of an operator in order."""
    return tuple(
        SchemaArgument(arg.name, bool(arg.kwarg_only), bool(arg.has_default_value()), keyword.iskeyword(arg.name))
        for arg in schema_of(op).arguments
    )


@functools.cache
def schema_types(op: OpOverload) -> tuple[tuple[str, Any, bool], ...]:
    """Return the arguments of an operator in order: name, type, and whether it is given by keyword only."""
    return tuple((argument.name, argument.type, bool(argument.kwarg_only)) for argument in schema_of(op).arguments)


@functools.cache
def returns_one_tensor(op: OpOverload) -> bool:
    """Whether an operator returns a tensor and nothing else."""
    returns = schema_of(op).returns
    return len(returns) == 1 and isinstance(returns[0].real_type, torch.TensorType)


@functools.cache
def symbolic_parameters(target: Target) -> tuple[str, ...]:
    """Return the names of the parameters of an operator that computes with symbolic numbers; it takes all of them, by position."""
    if isinstance(target, OpOverload):
        return tuple(argument.name for argument in schema_of(target).arguments)
    return tuple(inspect.signature(target).parameters)


def _unknown(name: str, why: str) -> Exception:
    return program_unsupported(f"the operator `{shortened(name, 200)}` cannot stand in a program: {why}", operator=name[:200])
