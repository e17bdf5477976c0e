"""From an argument of the schema to an argument of a node."""

from __future__ import annotations

from collections.abc import Callable, Sized
from typing import Any, Final, Protocol, TypeAlias, TypeVar, cast

from msgspec import UNSET
from torch import fx

from retraced_pt2 import program_schema, schema
from retraced_pt2.errors import shortened
from retraced_server.program.errors import program_invalid, program_unsupported
from retraced_server.program.operators import Operators
from retraced_server.program.options import DEEPEST_ARGUMENT, MOST_ITEMS
from retraced_server.program.scalar_types import read_device, read_dtype, read_layout, read_memory_format
from retraced_server.torch_compat.graphs import Argument

_SymArgument: TypeAlias = schema.SymIntArgument | schema.SymFloatArgument | schema.SymBoolArgument
_Items = TypeVar("_Items", bound=Sized)


class Scope(Protocol):
    """Where the names in an argument mean something: a graph that is being read."""

    operators: Operators

    def node(self, name: str) -> fx.Node:
        """Return the node whose value has that name."""

    def subgraph(self, argument: schema.GraphArgument) -> fx.Node:
        """Read a subgraph of a higher-order operator and return the node that stands for it."""


def read_argument(argument: schema.Argument, scope: Scope) -> Argument:
    """Return the argument of a node that an argument of the schema stands for.

    Raises:
        RetracedError: PROGRAM_INVALID where it says nothing or several things, names a value that is not there, or is of a kind
            that torch does not read; PROGRAM_UNSUPPORTED where it is an object, nested too deep, or a list that is too long.
    """
    if not schema.only_member(argument):
        kinds = [name for name in argument.__struct_fields__ if getattr(argument, name) is not UNSET]
        raise program_invalid(f"an argument says exactly one thing, and this one says {', '.join(kinds) or 'nothing'}")
    # The frequent ones first.
    if (tensor := argument.as_tensor) is not UNSET:
        return scope.node(tensor.name)
    if (integer := argument.as_int) is not UNSET:
        return integer
    if (integers := argument.as_ints) is not UNSET:
        return check_items(integers)
    for name, read in _READERS.items():
        value = getattr(argument, name)
        if value is not UNSET:
            if isinstance(value, list):
                check_items(value)
            return read(value, scope)
    raise program_invalid("an argument of a kind that torch does not read: as_optional_tensor", field="as_optional_tensor")


def check_items(items: _Items, what: str = "a list among the arguments of a node") -> _Items:
    """Return a list, and raise PROGRAM_UNSUPPORTED where it holds so many items that an operator would take long over it."""
    if len(items) > MOST_ITEMS:
        raise program_unsupported(f"{what} has {len(items)} items, and {MOST_ITEMS} are the most")
    return items


def output_name(output: schema.Argument | schema.TensorArgument | _SymArgument) -> str | None:
    """Return the name of a result that is one tensor or one symbolic number, and None for any other."""
    if isinstance(output, schema.TensorArgument):
        return output.name
    if isinstance(output, schema.Argument):
        if not schema.only_member(output):
            raise program_invalid("a result says exactly one thing, and this one does not")
        if output.as_tensor is not UNSET:
            return output.as_tensor.name
        for symbolic in (output.as_sym_int, output.as_sym_bool, output.as_sym_float):
            if symbolic is not UNSET:
                return output_name(symbolic)
        return None
    if not schema.only_member(output) or output.as_name is UNSET:
        raise program_invalid("a symbolic result must have a name and nothing else")
    return output.as_name


def constant_value(value: program_schema.ConstantValue) -> int | float | str | bool | None:
    """Return the constant that a `ConstantValue` of the schema stands for."""
    if not schema.only_member(value):
        raise program_invalid("a constant input says exactly one thing, and this one does not")
    name, found = schema.member(value)
    if name == "as_none":
        return None
    constant: int | float | str | bool = schema.number(found) if name == "as_float" else found
    return constant


def _tensors(values: list[schema.TensorArgument], scope: Scope) -> Argument:
    return [scope.node(value.name) for value in values]


def _optional_tensors(values: list[schema.OptionalTensorArgument], scope: Scope) -> Argument:
    nodes: list[fx.Node | None] = []
    for value in values:
        if not schema.only_member(value):
            raise program_invalid("an optional tensor is a tensor or nothing")
        nodes.append(None if value.as_tensor is UNSET else scope.node(value.as_tensor.name))
    return nodes


def _dictionary(values: dict[str, schema.Argument], scope: Scope, depth: int = 1) -> Argument:
    if depth > DEEPEST_ARGUMENT:
        raise program_unsupported(f"dictionaries in an argument are nested deeper than {DEEPEST_ARGUMENT}")
    read: dict[str, Argument] = {}
    for key, value in check_items(values).items():
        inner = value.as_string_to_argument if schema.only_member(value) else UNSET
        read[key] = read_argument(value, scope) if inner is UNSET else _dictionary(inner, scope, depth + 1)
    return read


def _symbolic(value: _SymArgument, scope: Scope) -> Argument:
    if not schema.only_member(value):
        raise program_invalid(f"a {type(value).__name__} is a name or a number")
    if value.as_name is not UNSET:
        return scope.node(value.as_name)
    _, number = schema.member(value)
    return schema.number(number) if isinstance(value, schema.SymFloatArgument) else cast(Argument, number)


def _refuse_object(value: schema.CustomObjArgument, _: Scope) -> Argument:
    raise custom_object(value)


def custom_object(value: schema.CustomObjArgument) -> Exception:
    """Make the error of a program that holds an object of a custom class."""
    return program_unsupported(
        f"the program holds `{shortened(value.name, 200)}`, an object of the custom class `{shortened(value.class_fqn, 200)}`; "
        "objects are stored pickled, so they are not read",
        class_name=value.class_fqn[:200],
    )


# Any: each reader takes what its member holds.
_READERS: Final[dict[str, Callable[[Any, Scope], Argument]]] = {
    "as_none": lambda value, scope: None,
    "as_sym_int": _symbolic,
    "as_sym_ints": lambda values, scope: [_symbolic(value, scope) for value in values],
    "as_float": lambda value, scope: schema.number(value),
    "as_bool": lambda value, scope: value,
    "as_tensors": _tensors,
    "as_scalar_type": lambda value, scope: read_dtype(value),
    "as_device": lambda value, scope: read_device(value),
    "as_layout": lambda value, scope: read_layout(value),
    "as_memory_format": lambda value, scope: read_memory_format(value),
    "as_string": lambda value, scope: value,
    "as_strings": lambda values, scope: values,
    "as_bools": lambda values, scope: values,
    "as_floats": lambda values, scope: [schema.number(value) for value in values],
    "as_graph": lambda value, scope: scope.subgraph(value),
    "as_optional_tensors": _optional_tensors,
    "as_sym_bool": _symbolic,
    "as_sym_bools": lambda values, scope: [_symbolic(value, scope) for value in values],
    "as_sym_float": _symbolic,
    "as_sym_floats": lambda values, scope: [_symbolic(value, scope) for value in values],
    "as_complex": lambda value, scope: complex(schema.number(value.real), schema.number(value.imag)),
    "as_nested_tensors": lambda values, scope: [_tensors(check_items(inner), scope) for inner in values],
    # Tuples, as they stand in the grids of Triton kernels.
    "as_int_lists": lambda values, scope: [tuple(check_items(inner)) for inner in values],
    "as_float_lists": lambda values, scope: [[schema.number(value) for value in check_items(inner)] for inner in values],
    "as_string_to_argument": _dictionary,
    # Any: fx takes operators as arguments, which its type does not say.
    "as_operator": lambda value, scope: cast(Any, scope.operators.find_operator(value)),
    "as_custom_obj": _refuse_object,
}
