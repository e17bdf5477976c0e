"""Checks names from a file, which torch pastes into the source that it generates for graphs."""

from __future__ import annotations

import keyword
from collections.abc import Iterable

from torch.utils._pytree import TreeSpec

from retraced_server.program.errors import program_invalid, shortened
from retraced_server.program.options import LONGEST_NAME


def check_name(name: str) -> str:
    """Checks that the name of a value, an argument or a body is an identifier.

    Raises:
        RetracedError: PROGRAM_INVALID where it is not.
    """
    if not name.isidentifier() or keyword.iskeyword(name) or len(name) > LONGEST_NAME:
        raise program_invalid(f"`{shortened(name, 200)}` is no name of a value: it must be an identifier")
    return name


def check_path(path: str) -> str:
    """Checks the name of a parameter, buffer, constant or module: it may hold points, and nothing that could end a quoted text.

    Raises:
        RetracedError: PROGRAM_INVALID where it does.
    """
    if len(path) > LONGEST_NAME or not path.isprintable() or any(mark in path for mark in "'\"\\`"):
        raise program_invalid(f"`{shortened(path, 200)}` is no name of a parameter, buffer, constant or module")
    return path


def check_parameters(names: Iterable[str], in_spec: TreeSpec) -> None:
    """Checks the names that a call takes its arguments by: those that are given, and the keywords of its tree spec.

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
