"""From recorded values to their descriptions: sizes, symbolic numbers and tensors. Each distinct one is written once."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import msgspec
import sympy
import torch
from msgspec import Raw
from sympy.printing.repr import srepr

from retraced_server.program.errors import program_unsupported
from retraced_server.program.scalar_types import DTYPE_NUMBERS, LAYOUT_NUMBERS
from retraced_server.torch_compat.symbolic_shapes import int_oo

# What JSON is made of. `Any`: a dictionary holds all of it, in any depth.
Json: TypeAlias = Any

_encode = msgspec.json.Encoder().encode


def write_float(value: float) -> float | str:
    """Return a number as the schema has it: what JSON has no word for is a string."""
    if math.isfinite(value):
        return value
    return "NaN" if value != value else ("Infinity" if value > 0 else "-Infinity")


def write_device(device: torch.device) -> Json:
    """Return a device as the schema has it."""
    return {"type": device.type, "index": device.index}


class ValueWriter:
    """Writes the values of one program."""

    def __init__(self) -> None:
        self._expressions: dict[sympy.Expr, str] = {}
        # By the address of a symbolic number's node, with the node, so that the address stays its own.
        self._ints: dict[int, tuple[object, Raw, object]] = {}
        self._tensors: dict[tuple[object, ...], Raw] = {}
        self._plain: dict[int, Raw] = {}

    def tensor(self, tensor: torch.Tensor) -> Raw:
        """Return the `TensorMeta` of a tensor.

        Raises:
            RetracedError: PROGRAM_UNSUPPORTED where the schema has no number for its dtype or layout.
        """
        size, stride, offset = tensor.shape, tensor.stride(), tensor.storage_offset()
        dtype, device, layout, requires_grad = tensor.dtype, tensor.device, tensor.layout, tensor.requires_grad
        sizes = [self._key(value) for value in size]
        strides = [self._key(value) for value in stride]
        key = (dtype, device, layout, requires_grad, self._key(offset), *sizes, None, *strides)
        found = self._tensors.get(key)
        if found is None:
            if dtype not in DTYPE_NUMBERS or layout not in LAYOUT_NUMBERS:
                raise program_unsupported(f"a tensor of {dtype} in layout {layout} has no serialized form")
            described = {
                "dtype": DTYPE_NUMBERS[dtype],
                "sizes": [self.sym_int(value) for value in size],
                "requires_grad": requires_grad,
                "device": write_device(device),
                "strides": [self.sym_int(value) for value in stride],
                "storage_offset": self.sym_int(offset),
                "layout": LAYOUT_NUMBERS[layout],
            }
            found = self._tensors[key] = Raw(_encode(described))
        return found

    def sym_int(self, value: int | torch.SymInt) -> Raw:
        """Return the `SymInt` of a size, a stride or another integer."""
        if isinstance(value, torch.SymInt):
            return self._symbolic_int(value)[1]
        found = self._plain.get(value)
        if found is None:
            found = self._plain[value] = Raw(_encode({"as_int": int(value)}))
        return found

    def sym_float(self, value: float | torch.SymFloat) -> Json:
        """Return the `SymFloat` of a number."""
        if isinstance(value, torch.SymFloat) and not isinstance(value.node.expr, sympy.Float):
            hint = value.node.hint
            return {"as_expr": self._expression(value.node.expr, None if hint is None else {"as_float": write_float(hint)})}
        return {"as_float": write_float(float(value.node.expr if isinstance(value, torch.SymFloat) else value))}

    def sym_bool(self, value: bool | torch.SymBool) -> Json:
        """Return the `SymBool` of a truth value. Its hint is not written, as torch does not."""
        if isinstance(value, torch.SymBool):
            expression = value.node.expr
            if not isinstance(expression, sympy.logic.boolalg.BooleanAtom):
                return {"as_expr": self._expression(expression, None)}
            return {"as_bool": bool(expression)}
        return {"as_bool": value}

    def _key(self, value: int | torch.SymInt) -> object:
        return self._symbolic_int(value)[2] if isinstance(value, torch.SymInt) else value

    def _symbolic_int(self, value: torch.SymInt) -> tuple[object, Raw, object]:
        node = value.node
        found = self._ints.get(id(node))
        if found is None:
            expression = node.expr
            if isinstance(expression, sympy.Integer):
                found = (node, self.sym_int(int(expression)), int(expression))
            else:
                hint = node.hint
                described = self._expression(expression, None if hint is None else {"as_int": hint})
                found = (node, Raw(_encode({"as_expr": described})), (expression, hint))
            self._ints[id(node)] = found
        return found

    def _expression(self, expression: sympy.Expr, hint: Json) -> Json:
        text = self._expressions.get(expression)
        if text is None:
            text = self._expressions[expression] = srepr(expression)
        return {"expr_str": text, "hint": hint}


def write_ranges(ranges: dict[sympy.Symbol, Any]) -> Json:
    """Return the range constraints of a program."""
    return {
        str(symbol): {"min_val": _bound(v.lower, math.ceil), "max_val": _bound(v.upper, math.floor)}
        for symbol, v in ranges.items()
    }


def _bound(bound: sympy.Expr, rounded: Any) -> int | None:
    if bound in (sympy.oo, -sympy.oo, int_oo, -int_oo):
        return None
    return int(bound) if isinstance(bound, sympy.Integer) else int(rounded(bound))
