"""From the named arguments of the schema to the arguments of a call."""

from __future__ import annotations

from typing import Any

from retraced_pt2 import schema
from retraced_pt2.errors import shortened
from retraced_server.program.errors import program_invalid
from retraced_server.program.names import check_name
from retraced_server.program.operators import schema_arguments
from retraced_server.program.read_arguments import Scope, read_argument
from retraced_server.torch_compat.graphs import Argument
from retraced_server.torch_compat.operators import OpOverload

_POSITIONAL = 1
_KEYWORD = 2


def operator_arguments(
    target: OpOverload, inputs: list[schema.NamedArgument], scope: Scope
) -> tuple[tuple[Argument, ...], dict[str, Argument]]:
    """Return the arguments of a call of an operator that has a schema.

    Raises:
        RetracedError: PROGRAM_INVALID where they are not arguments of that operator.
    """
    given: dict[str, tuple[int | None, Any]] = {}
    for named in inputs:
        if named.name in given:
            raise program_invalid(f"the argument `{shortened(named.name, 200)}` is given twice")
        given[named.name] = (named.kind, read_argument(named.arg, scope))
    args: list[Argument] = []
    kwargs: dict[str, Argument] = {}
    for position, expected in enumerate(schema_arguments(target)):
        if expected.name not in given:
            if not expected.has_default:
                raise program_invalid(f"the argument `{expected.name}` is missing")
            continue
        kind, value = given.pop(expected.name)
        if kind == _KEYWORD and not expected.is_keyword:
            kwargs[expected.name] = value
        # Older minors do not say the kind; and an argument named by a keyword of Python can only be given by position.
        elif kind == _POSITIONAL or expected.is_keyword or not (expected.has_default or expected.kwarg_only):
            # After one that was left out or given by name, it would be taken for that one.
            if expected.kwarg_only or len(args) != position:
                raise program_invalid(f"the argument `{expected.name}` cannot be given by position here")
            args.append(value)
        else:
            kwargs[expected.name] = value
    if given:
        unknown = ", ".join(f"`{shortened(name, 200)}`" for name in given)
        raise program_invalid(f"the operator has no argument {unknown}")
    return tuple(args), kwargs


def plain_arguments(inputs: list[schema.NamedArgument], scope: Scope) -> tuple[tuple[Argument, ...], dict[str, Argument]]:
    """Return the arguments of a call of a higher-order operator or a function, which have no schema.

    Raises:
        RetracedError: PROGRAM_INVALID where a keyword is given twice or is none.
    """
    args: list[Argument] = []
    kwargs: dict[str, Argument] = {}
    for named in inputs:
        value = read_argument(named.arg, scope)
        if named.kind == _POSITIONAL or named.name == "":
            args.append(value)
            continue
        if named.name in kwargs:
            raise program_invalid(f"the keyword `{shortened(named.name, 200)}` is given twice")
        kwargs[check_name(named.name)] = value
    return tuple(args), kwargs
