"""Calls and templates as JSON: what workers of one server share of them, and how it is read again."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
import sympy
import torch
from msgspec import Meta
from torch import fx

from retraced_pt2.program_schema import RangeConstraint
from retraced_pt2.schema import TensorMeta
from retraced_server.program.expressions import parse_expression
from retraced_server.program.fake_tensors import meta_tensor
from retraced_server.program.operators import Operators, operator_name
from retraced_server.retrace.fake_result_cache import Alias, FakeResult, Fresh, Part, View
from retraced_server.retrace.values import expression
from retraced_server.torch_compat.decompositions import TableChoice
from retraced_server.torch_compat.functional_trace import Number
from retraced_server.torch_compat.operators import OpOverload, is_builtin
from retraced_server.torch_compat.symbolic_shapes import SYMBOLIC, python_type

NumberType: TypeAlias = type[int] | type[float] | type[bool]
_TYPES: dict[str, NumberType] = {"int": int, "float": float, "bool": bool}
_NAMED = {torch.dtype: "dtype", torch.layout: "layout", torch.memory_format: "memory_format"}
# It remembers what it has found, for all templates.
_OPERATORS = Operators(frozenset())
_GETITEM = operator_name(operator.getitem)
_MOST_CALLS, _MOST_INPUTS, _MOST_ITEMS = 1024, 256, 4096

_LARGEST = 1 << 63

_Place = Annotated[int, Meta(ge=0, lt=_MOST_CALLS + _MOST_INPUTS)]


class UnsharedError(Exception):
    """A call or a template holds what workers do not share."""


class Real(msgspec.Struct, frozen=True, tag="real"):
    """A number that is no integer, as Python prints it."""

    text: Annotated[str, Meta(max_length=32)]


class Named(msgspec.Struct, frozen=True, tag="named"):
    """A value of torch that has a name."""

    kind: Literal["dtype", "layout", "memory_format", "device"]
    name: Annotated[str, Meta(max_length=32)]


class Symbolic(msgspec.Struct, frozen=True, tag="symbolic"):
    """A number that depends on symbols, as `sympy.srepr` prints it."""

    kind: Literal["int", "float", "bool"]
    text: Annotated[str, Meta(max_length=4096)]


class Placed(msgspec.Struct, frozen=True, tag="placed"):
    """A tensor by its place: among the inputs, and after these among the results of the calls."""

    at: _Place


class Items(msgspec.Struct, frozen=True, tag="items"):
    """A list or a tuple."""

    values: Annotated[tuple[Value, ...], Meta(max_length=_MOST_ITEMS)]
    is_tuple: bool


Value: TypeAlias = "bool | int | Annotated[str, Meta(max_length=64)] | Real | Named | Symbolic | Placed | Items | None"


class _Extents(msgspec.Struct, frozen=True):
    """Sizes, strides and offset of a tensor."""

    size: Annotated[tuple[Value, ...], Meta(max_length=64)]
    stride: Annotated[tuple[Value, ...], Meta(max_length=64)]
    offset: Value


class Call(msgspec.Struct, frozen=True):
    """A call of an operator, named as archives name it."""

    target: Annotated[str, Meta(max_length=256)]
    args: Annotated[tuple[Value, ...], Meta(max_length=_MOST_ITEMS)]
    kwargs: Annotated[dict[str, Value], Meta(max_length=64)]


class CallKey(msgspec.Struct, frozen=True):
    """All that the decomposition of a call depends on.

    Attributes:
        table: The table.
        symbols: The symbols of its sizes, named by their order, each as `sympy.srepr` prints it, and their ranges.
        inputs: The tensors among its arguments, each once, in order of appearance.
        call: The call.
    """

    table: TableChoice
    symbols: Annotated[tuple[tuple[str, RangeConstraint], ...], Meta(max_length=_MOST_INPUTS)]
    inputs: Annotated[tuple[TensorMeta, ...], Meta(max_length=_MOST_INPUTS)]
    call: Call


class OwnStorage(msgspec.Struct, frozen=True, tag="own"):
    """A tensor with a storage of its own."""

    dtype: Value
    device: Value
    layout: _Extents


class OfArgument(msgspec.Struct, frozen=True, tag="argument"):
    """A tensor with the storage of an argument; without sizes and strides of its own, like the argument."""

    argument: _Place
    layout: _Extents | None


_Part: TypeAlias = OwnStorage | OfArgument | None


class SharedResult(msgspec.Struct, frozen=True):
    """What a call gives, in the symbols of a key."""

    kind: Literal["one", "tuple", "list"]
    parts: Annotated[tuple[_Part, ...], Meta(max_length=_MOST_ITEMS)]


class SharedTemplate(msgspec.Struct, frozen=True):
    """What a call decomposes to, in the symbols of its key: calls, what each gives as far as that is known, and results."""

    calls: Annotated[tuple[Call, ...], Meta(max_length=_MOST_CALLS)]
    gives: Annotated[tuple[SharedResult | None, ...], Meta(max_length=_MOST_CALLS)]
    results: Value
    is_identity: bool


class Encoder:
    """Encodes the arguments of calls.

    Args:
        text: Returns the text of an expression, in the symbols that are shared.
        place: Returns the place of a tensor or a node.
    """

    # Expressions have no types, and leaves are of many.
    def __init__(self, text: Callable[[Any], str], place: Callable[[Any], int]) -> None:
        self._text = text
        self._place = place

    def call(self, target: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Call:
        """Encode a call.

        Raises:
            UnsharedError: It holds what is not shared.
        """
        if target is not operator.getitem and not (isinstance(target, OpOverload) and is_builtin(target)):
            raise UnsharedError
        encoded = {name: self.value(value) for name, value in kwargs.items()}
        return Call(operator_name(target), tuple(map(self.value, args)), encoded)

    def value(self, value: Any) -> Value:
        """Encode an argument or a result.

        Raises:
            UnsharedError: It holds what is not shared.
        """
        if value is None or isinstance(value, (bool, str)):
            return value
        if isinstance(value, int):
            if not -_LARGEST <= value < _LARGEST:
                raise UnsharedError
            return value
        if isinstance(value, float):
            return Real(repr(value))
        if isinstance(value, (tuple, list)):
            return Items(tuple(map(self.value, value)), isinstance(value, tuple))
        number = value.value if isinstance(value, Number) else value
        if isinstance(number, SYMBOLIC):
            kind: Any = python_type(number).__name__
            return Symbolic(kind, self._text(number.node.expr))
        if isinstance(number, (bool, int, float)):
            return self.value(number)
        if isinstance(value, torch.device):
            return Named("device", str(value))
        if type(value) in _NAMED:
            return Named(_NAMED[type(value)], str(value).removeprefix("torch."))  # type: ignore[arg-type]  # the three kinds
        if isinstance(value, (torch.Tensor, fx.Node)):
            return Placed(self._place(value))
        raise UnsharedError

    def result(self, result: FakeResult | None) -> SharedResult | None:
        """Encode what a call gives.

        Raises:
            UnsharedError: It holds what is not shared.
        """
        if result is None:
            return None
        kind: Any = result.kind.__name__ if result.kind in (tuple, list) else "one"
        return SharedResult(kind, tuple(map(self._part, result.parts)))

    def _part(self, part: Part) -> _Part:
        if part is None:
            return None
        if isinstance(part, Fresh):
            meta = part.template
            extents = self._extents(meta.shape, meta.stride(), meta.storage_offset())
            return OwnStorage(self.value(meta.dtype), self.value(part.device), extents)
        of_view = self._extents(part.size, part.stride, part.offset) if isinstance(part, View) else None
        return OfArgument(part.argument, of_view)

    def _extents(self, size: Sequence[Any], stride: Sequence[Any], offset: Any) -> _Extents:
        return _Extents(tuple(map(self.value, size)), tuple(map(self.value, stride)), self.value(offset))


MetaTensors: TypeAlias = dict[Hashable, torch.Tensor]
"""Meta tensors by dtype, sizes, strides and offset: torch looks at symbolic sizes when it makes one."""


class Decoder:
    """Decodes the arguments of calls.

    Args:
        number: Makes a symbolic number of its Python type and its expression.
        at: Returns the tensor or node of a place.
        meta: Meta tensors that were made for other results.
    """

    # Expressions have no types, and values are of many.
    def __init__(self, number: Callable[[NumberType, Any], Any], at: Callable[[int], Any], meta: MetaTensors) -> None:
        self._number = number
        self._at = at
        self._meta = meta

    def call(self, call: Call) -> tuple[Any, list[Any], dict[str, Any]]:
        """Decode a call: its target, arguments and keyword arguments.

        Raises:
            RetracedError: PROGRAM_INVALID or PROGRAM_UNSUPPORTED: programs cannot hold it.
            ValueError: A value is none.
            LookupError: There is nothing at a place.
        """
        target: Any = operator.getitem
        if call.target != _GETITEM:
            target = _OPERATORS.find(call.target)
            if not isinstance(target, OpOverload):
                raise ValueError(f"`{call.target}` is not shared")
        kwargs = {name: self.value(value) for name, value in call.kwargs.items()}
        return target, [self.value(value) for value in call.args], kwargs

    def value(self, value: Value) -> Any:
        """Decode an argument or a result. Raises what `call` does."""
        match value:
            case Real():
                return float(value.text)
            case Named(kind="device"):
                return torch.device(value.name)
            case Named():
                found = getattr(torch, value.name, None)
                if _NAMED.get(type(found)) != value.kind:
                    raise ValueError(f"there is no {value.kind} `{value.name[:64]}`")
                return found
            case Symbolic():
                return self._number(_TYPES[value.kind], parse_expression(value.text))
            case Placed():
                return self._at(value.at)
            case Items():
                items = [self.value(item) for item in value.values]
                return tuple(items) if value.is_tuple else items
        return value

    def result(self, result: SharedResult | None) -> FakeResult | None:
        """Decode what a call gives. Raises what `call` does."""
        if result is None:
            return None
        kind: type[Any] = {"tuple": tuple, "list": list}.get(result.kind, torch.Tensor)
        return FakeResult(kind, tuple(map(self._part, result.parts)))

    def _part(self, part: _Part) -> Part:
        match part:
            case OwnStorage():
                size, stride, offset = self._extents(part.layout)
                return Fresh(self._made(self.value(part.dtype), size, stride, offset), self.value(part.device))
            case OfArgument():
                return Alias(part.argument) if part.layout is None else View(part.argument, *self._extents(part.layout))
        return None

    def _extents(self, extents: _Extents) -> tuple[tuple[Any, ...], tuple[Any, ...], Any]:
        size, stride = (tuple(map(self.value, numbers)) for numbers in (extents.size, extents.stride))
        return size, stride, self.value(extents.offset)

    def _made(self, dtype: torch.dtype, size: tuple[Any, ...], stride: tuple[Any, ...], offset: Any) -> torch.Tensor:
        key = dtype, *(tuple(map(expression, numbers)) for numbers in (size, stride, (offset,)))
        if key not in self._meta:
            self._meta[key] = meta_tensor(dtype, size, stride, offset)
        return self._meta[key]


def is_usual(number: float) -> bool:
    """Whether a number may be in many programs: what is left of others must not be found by who reads what they share.

    Usual are small integers and their inverses, roots and inverse roots, numbers of two significant digits, infinities, and what masks are
    filled with.
    """
    if abs(number) in _LIMITS or (isinstance(number, float) and not math.isfinite(number)):
        return True
    if abs(number) >= _LARGEST:
        return False
    if float(f"{number:.1e}") == number:
        return True
    candidates = [abs(number), number * number]
    if number:
        candidates += [1 / value for value in candidates if value]
    return any(value < _USUAL and abs(value - round(value)) <= 1e-9 * value for value in candidates if math.isfinite(value))


_USUAL = 4097
_LIMITS = frozenset(
    abs(limit)
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    for limit in (torch.finfo(dtype).max, torch.finfo(dtype).tiny, torch.finfo(dtype).eps)
) | frozenset((2**63 - 1, 2**63, 2**31 - 1, 2**31))


def canonical(symbol: sympy.Symbol, place: int) -> sympy.Symbol:
    """Return what stands for a symbol of a program: one with its assumptions, named by its order of appearance.

    Raises:
        UnsharedError: It has other assumptions than sizes have.
    """
    assumed = "positive" if symbol.is_positive else "nonnegative"
    made = sympy.Symbol(f"s{place}", integer=True, **{assumed: True})
    if made.assumptions0 != symbol.assumptions0:
        raise UnsharedError
    return made
