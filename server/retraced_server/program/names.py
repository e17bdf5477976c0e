"""Checks names from a file, which torch pastes into the source that it generates for graphs."""

from __future__ import annotations

from collections.abc import Iterable

from retraced_pt2.errors import shortened
from retraced_pt2.limits import LONGEST_NAME
from retraced_pt2.names import is_identifier, is_quotable
from retraced_server.program.errors import program_invalid, program_unsupported
from retraced_server.torch_compat.pytree import TreeSpec


def check_name(name: str) -> str:
    """Check that the name of a value, an argument or a subgraph is an identifier.

    Raises:
        RetracedError: PROGRAM_INVALID where it is not, PROGRAM_UNSUPPORTED where it is too long.
    """
    if not is_identifier(name):
        raise program_invalid(f"`{shortened(name, 200)}` is no name of a value: it must be an identifier")
    _check_length(name)
    return name


def check_path(path: str) -> str:
    """Check the name of a parameter, buffer, constant or module: what torch quotes of it in source must stand for itself there.

    Raises:
        RetracedError: PROGRAM_UNSUPPORTED where it does not, or is too long.
    """
    _check_length(path)
    if not path.isprintable():
        raise program_unsupported(f"the name `{shortened(path, 200)}` is not taken, since it has unprintable characters")
    if not is_quotable(path):
        raise program_unsupported(
            f"the name `{shortened(path, 200)}` is not taken: torch puts names of parameters, buffers, constants and modules between "
            "double quotes in source that it generates and executes, where this one would be other text, or code; rename it without "
            "double quotes and backslashes, and export again"
        )
    return path


def _check_length(name: str) -> None:
    if len(name) > LONGEST_NAME:
        raise program_unsupported(
            f"the name `{shortened(name, 200)}` has {len(name)} characters, and {LONGEST_NAME} are the most"
        )


def check_parameters(names: Iterable[str], in_spec: TreeSpec) -> None:
    """Check the names that a call takes its arguments by: those that are given, and the keywords of its tree spec.

    Raises:
        RetracedError: PROGRAM_INVALID where one is no identifier.
    """
    for name in names:
        check_name(name)
    if in_spec.type is tuple and in_spec.num_children == 2 and in_spec.child(1).type is dict:
        for name in in_spec.child(1).context:
            if not isinstance(name, str):
                raise program_invalid(f"`{name}` is no name of an argument")
            check_name(name)
