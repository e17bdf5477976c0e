"""Templates that the jobs of one server share.

A job never gives what it has traced to another: it gives the *keys* of calls that it found no template for, and each is traced again
(`make_template`) in a process that knows nothing but that key. What a key holds is all that a decomposition depends on: operator, arguments,
the metadata of tensors, and symbols that are named by their order, with their ranges. It has no names, hints, texts or values of a program, and
no numbers but usual ones (`is_usual`) and those that are sizes, dimensions, places and offsets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec
import sympy
import torch
from torch import fx

from retraced_pt2.program_schema import RangeConstraint
from retraced_pt2.schema import Device, SymExpr, SymInt, TensorMeta
from retraced_server.analysis.targets import overload_of
from retraced_server.passes.decompose.call_codec import (
    CallKey,
    Decoder,
    Encoder,
    MetaTensors,
    NumberType,
    SharedTemplate,
    UnsharedError,
    canonical,
    is_usual,
)
from retraced_server.passes.decompose.template import Template, datum, map_inputs
from retraced_server.pipeline.domain import LARGEST_TEMPLATE, MOST_TEMPLATE_KEYS
from retraced_server.program.operators import schema_types
from retraced_server.program.scalar_types import DTYPE_NUMBERS, LAYOUT_NUMBERS
from retraced_server.torch_compat.decompositions import TableChoice
from retraced_server.torch_compat.fake_tensors import FakeTensor, FakeTensorMode, can_record_gradients
from retraced_server.torch_compat.functional_trace import Number
from retraced_server.torch_compat.operators import is_builtin
from retraced_server.torch_compat.symbolic_shapes import (
    SYMBOLIC,
    SymT,
    backed_values,
    has_facts_about,
    int_oo,
    ranges_of,
    symbol_is_type,
    symbolic_number,
)

_LARGEST_SIZE = 1 << 48
# Words that operators take, not texts that a program gives to them.
_WORDS = frozenset(("none", "tanh", "floor", "trunc", "ij", "xy", "sum", "mean", "bilinear", "nearest"))
_encode = msgspec.json.encode


class SharedTemplates:
    """The templates that a process shares with those that are forked from it, by key.

    Attributes:
        collects: Whether keys are collected for which there is no template.
    """

    def __init__(self) -> None:
        self.collects = False
        self._templates: dict[bytes, SharedTemplate] = {}
        self._missed: dict[bytes, None] = {}

    @property
    def is_used(self) -> bool:
        """Whether keys need to be made at all."""
        return self.collects or bool(self._templates)

    def replace(self, templates: Iterable[tuple[bytes, bytes]]) -> None:
        """Have these templates and no others; what is none is left out."""
        kept = dict(self._templates)
        self._templates.clear()
        for key, data in templates:
            known = kept.get(key)
            if known is None:
                try:
                    known = _TEMPLATE.decode(data)
                except msgspec.DecodeError:
                    continue
            self._templates[key] = known

    def find(self, key: bytes) -> SharedTemplate | None:
        """Return the template of a key; where there is none, the key is collected."""
        found = self._templates.get(key)
        if found is None and self.collects and len(self._missed) < MOST_TEMPLATE_KEYS and len(key) <= LARGEST_TEMPLATE:
            self._missed[key] = None
        return found

    def take_missed(self) -> tuple[bytes, ...]:
        """Return the keys that were collected, and forget them."""
        missed = tuple(self._missed)
        self._missed.clear()
        return missed


SHARED = SharedTemplates()
"""Those of this process."""


class SharedCall:
    """A call as processes share it.

    Attributes:
        key: Its key.

    Raises:
        UnsharedError: It holds what is not shared.
    """

    # Operators and arguments are of several unrelated types in torch.
    def __init__(
        self,
        choice: TableChoice,
        target: Any,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        given: Sequence[Any],
        pattern: Sequence[int],
        mode: FakeTensorMode,
    ) -> None:
        op = overload_of(target)
        if op is None or not is_builtin(op):
            raise UnsharedError
        self._env = mode.shape_env
        self._count = len(given)
        self._symbols: dict[sympy.Symbol, sympy.Symbol] = {}
        inputs = tuple(self._input(datum(value, mode)) for value in given)
        order, placeholders = iter(pattern), _placeholders(len(given))
        places = {placeholder: at for at, placeholder in enumerate(placeholders)}
        args, kwargs = map_inputs((tuple(args), dict(kwargs)), lambda _: placeholders[next(order)])
        _check_constants(op, args, kwargs)
        call = Encoder(self._text, places.__getitem__).call(target, args, kwargs)
        symbols = tuple((sympy.srepr(shared), self._range(symbol)) for symbol, shared in self._symbols.items())
        self.key = msgspec.json.encode(CallKey(choice, symbols, inputs, call), order="deterministic")

    def read(self, shared: SharedTemplate, meta: MetaTensors) -> Template:
        """Return a template in the symbols of this call.

        Args:
            shared: The template.
            meta: Meta tensors that were made for other templates of the program.

        Raises:
            What `read_template` does.
        """
        own = {canonical_symbol: symbol for symbol, canonical_symbol in self._symbols.items()}

        # Expressions have no types, and numbers are of three.
        def number(kind: NumberType, expression: Any) -> Any:
            if expression.is_number:
                return kind(expression)
            if self._env is None or not expression.free_symbols <= own.keys():
                raise ValueError("a template has symbols that its key does not have")
            return symbolic_number(self._env, kind, expression.xreplace(own))

        return read_template(shared, self._count, number, meta)

    def _input(self, tensor: FakeTensor) -> TensorMeta:
        if type(tensor) is not FakeTensor or tensor.layout is not torch.strided or tensor.is_quantized:
            raise UnsharedError
        if tensor.is_conj() or tensor.is_neg() or tensor.dtype not in DTYPE_NUMBERS:
            raise UnsharedError
        device = tensor.device
        return TensorMeta(
            dtype=DTYPE_NUMBERS[tensor.dtype],
            sizes=[self._size(size) for size in tensor.shape],
            requires_grad=tensor.requires_grad and can_record_gradients(tensor),
            device=Device(device.type, device.index),
            strides=[self._size(stride) for stride in tensor.stride()],
            storage_offset=self._size(tensor.storage_offset()),
            layout=LAYOUT_NUMBERS[tensor.layout],
        )

    def _size(self, size: int | torch.SymInt) -> msgspec.Raw:
        if isinstance(size, torch.SymInt):
            return msgspec.Raw(_encode(SymInt(as_expr=SymExpr(self._text(size.node.expr)))))
        if size > _LARGEST_SIZE:
            raise UnsharedError
        return msgspec.Raw(_encode(SymInt(as_int=size)))

    def _text(self, expression: sympy.Expr) -> str:
        for symbol in sorted(expression.free_symbols - self._symbols.keys(), key=str):
            env = self._env
            is_size = symbol_is_type(symbol, SymT.SIZE) and env is not None and backed_values(env).get(symbol, 0) >= 2
            # What is known of it beyond its range decides what a decomposition asks.
            if not is_size or env is None or has_facts_about(env, symbol):
                raise UnsharedError
            self._symbols[symbol] = canonical(symbol, len(self._symbols))
        return str(sympy.srepr(expression.xreplace(self._symbols)))

    def _range(self, symbol: sympy.Symbol) -> RangeConstraint:
        assert self._env is not None
        bounds = ranges_of(self._env)[symbol]
        # torch.export presumes of every size that is 2 or more that it always is, and records the range without.
        return RangeConstraint(max(int(bounds.lower), 2), None if bounds.upper is int_oo else int(bounds.upper))


def encode_template(template: Template) -> bytes:
    """Encode a template whose symbols are those of a key.

    Raises:
        UnsharedError: It holds what is not shared.
    """
    places = {node: at for at, node in enumerate((*template.inputs, *template.nodes))}
    encoder = Encoder(lambda expression: str(sympy.srepr(expression)), places.__getitem__)
    calls = tuple(encoder.call(node.target, node.args, node.kwargs) for node in template.nodes)
    gives = tuple(map(encoder.result, template.values)) or (None,) * len(calls)
    data = _encode(SharedTemplate(calls, gives, encoder.value(template.results), template.is_identity))
    if len(data) > LARGEST_TEMPLATE:
        raise UnsharedError
    return data


# Numbers are symbolic ones of three types.
def read_template(shared: SharedTemplate, inputs: int, number: Callable[[NumberType, Any], Any], meta: MetaTensors) -> Template:
    """Decode a template.

    Args:
        shared: The template.
        inputs: How many inputs it has.
        number: Makes a symbolic number of its Python type and its expression.
        meta: Meta tensors that were made for other results.

    Raises:
        RetracedError: PROGRAM_INVALID or PROGRAM_UNSUPPORTED: programs cannot hold an operator of it.
        ValueError: A value is none.
        LookupError: There is nothing at a place.
    """
    graph = fx.Graph()
    places = [graph.placeholder(f"arg{at}") for at in range(inputs)]
    in_arguments = Decoder(lambda kind, expression: _as_argument(number(kind, expression)), places.__getitem__, meta)
    for call in shared.calls:
        target, args, kwargs = in_arguments.call(call)
        places.append(graph.call_function(target, tuple(args), kwargs))
    decoder = Decoder(number, places.__getitem__, meta)
    values = () if shared.is_identity else tuple(map(decoder.result, shared.gives))
    if len(values) not in (0, len(shared.calls)):
        raise ValueError("a template says of other calls what they give than it has")
    results = decoder.value(shared.results)
    return Template(tuple(places[:inputs]), tuple(places[inputs:]), results, shared.is_identity, values)


# A number is of any of three types that share no base.
def _as_argument(number: Any) -> Any:
    return Number(number) if isinstance(number, SYMBOLIC) else number


# Arguments are whatever a graph has.
def _check_constants(op: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Check that a call has no number or text that would be one program's own.

    Raises:
        UnsharedError: It has.
    """
    schema = {name: kind for name, kind, _ in schema_types(op)}
    for name, value in (*zip(schema, args, strict=False), *kwargs.items()):
        kind = schema[name]
        while kind.kind() in ("OptionalType", "ListType"):
            kind = kind.getElementType()
        for leaf in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(leaf, str) and leaf not in _WORDS:
                raise UnsharedError
            # Others are sizes, dimensions and places.
            if kind.kind() in ("NumberType", "FloatType", "ComplexType") and not all(map(is_usual, _constants(leaf))):
                raise UnsharedError


# Leaves are of many types.
def _constants(leaf: Any) -> list[float]:
    """Return the numbers that an argument holds: itself, or those in the expression of a symbolic one."""
    number = leaf.value if isinstance(leaf, Number) else leaf
    if isinstance(number, SYMBOLIC):
        return [float(constant) for constant in number.node.expr.atoms(sympy.Number)]
    return [number] if isinstance(number, (int, float)) else []


def _placeholders(count: int) -> list[fx.Node]:
    graph = fx.Graph()
    return [graph.placeholder(f"arg{at}") for at in range(count)]


_TEMPLATE = msgspec.json.Decoder(SharedTemplate)
