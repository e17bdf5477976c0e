"""What a reader accepts beyond the plain: the operator's choices, and the bounds that always hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MOST_RECORDS: Final = 200_000
"""Records of one archive."""
LONGEST_PATH: Final = 511
"""Bytes of the name of a record, with the root: torch lists none whose name is longer."""
LONGEST_RECORD_NAME: Final = 500
"""Bytes of the name of a record without the root: with the root that the writer gives it, torch still lists it."""
LARGEST_DOCUMENT: Final = 512 << 20
"""Bytes of a record of JSON."""
LONGEST_EXPRESSION: Final = 20_000
"""Characters of one symbolic expression."""
DEEPEST_EXPRESSION: Final = 64
"""Calls inside one another in one symbolic expression."""
LONGEST_NAME: Final = 16_384
"""Characters of the name of a node, an argument, a parameter or an operator."""
LONGEST_TREE_SPEC: Final = 1_000_000
"""Characters of one tree spec."""
MOST_PRECISION: Final = 128
"""Bits of a floating-point number in a symbolic expression; torch writes 53."""
MOST_UNBACKED_SYMBOLS: Final = 1_000_000
"""Numbers of unbacked symbols end here: torch counts up to the highest."""
MOST_DIMENSIONS: Final = 64
"""Dimensions of one tensor, as in torch itself."""
DEEPEST_ARGUMENT: Final = 16
"""Dictionaries inside one another in one argument."""
MOST_ITEMS: Final = 16_384
"""Items of one list among the arguments of a node, and results of a node: torch looks at each whenever it executes the operator."""
LONGEST_STACK: Final = 10_000
"""Entries of one stack of modules or source functions in the metadata of a node."""
DEEPEST_CUSTOM: Final = 64
"""Lists and objects inside one another in one piece of custom metadata."""
DEEPEST_GRAPH: Final = 32
"""Bodies of higher-order operators inside one another."""


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
