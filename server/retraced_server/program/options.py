"""What a reader accepts beyond the plain: the operator's choices, and bounds of what torch would work through."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

DEEPEST_ARGUMENT: Final = 16
"""Dictionaries inside one another in one argument."""
MOST_ITEMS: Final = 16_384
"""Items of one list among the arguments of a node, and results of a node: torch looks at each whenever it executes the operator."""
LONGEST_STACK: Final = 10_000
"""Entries of one stack of modules or source functions in the metadata of a node."""
DEEPEST_CUSTOM: Final = 64
"""Lists and objects inside one another in one piece of custom metadata."""


@dataclass(frozen=True)
class ReadOptions:
    """What a reader accepts beyond what every program may hold.

    Attributes:
        namespaces: Namespaces, such as `mylib`, whose operators may stand in a program besides the usual. They must be
            registered in this process already: nothing is imported for a program.
        operators: Single operators, such as `aten._sobol_engine_draw.default`, that may stand in a program besides those on the list.
        tree_types: Serialized names of registered pytree nodes, named tuples included, that may stand in tree specs. Their
            registered functions run on contexts from the file.
        newer_minors: Whether a program in a newer minor version of the schema is read when every field in it is known.
    """

    namespaces: frozenset[str] = frozenset()
    operators: frozenset[str] = frozenset()
    tree_types: frozenset[str] = frozenset()
    newer_minors: bool = False
