"""Changes the arguments of a call by the operator's schema, as `map_args` of ExecuTorch (exir/pass_base.py) does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from retraced_server.retrace.arguments import Argument
from retraced_server.torch_compat.operators import OpOverload, schema_of


def map_args(
    op: OpOverload, fn: Callable[[Any, Any], Any], args: tuple[Argument, ...], kwargs: dict[str, Argument]
) -> tuple[tuple[Argument, ...], dict[str, Argument]]:
    """Return the arguments of a call, each that was given changed by a function.

    Args:
        op: The operator, whose schema says what its arguments are.
        fn: Called with an argument and its entry in the schema (`torch.Argument`: `name`, `type`, `kwarg_only`).
        args: The positional arguments.
        kwargs: The arguments by name.
    """
    positional, named = list(args), dict(kwargs)
    for place, schema in enumerate(schema_of(op).arguments):
        if schema.name in named:
            named[schema.name] = fn(named[schema.name], schema)
        elif not schema.kwarg_only and place < len(positional):
            positional[place] = fn(positional[place], schema)
    return tuple(positional), named
