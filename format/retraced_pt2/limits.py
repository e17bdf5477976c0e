"""The bounds of what is read, wherever it is read."""

from __future__ import annotations

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
MOST_PRECISION: Final = 128
"""Bits of a floating-point number in a symbolic expression; torch writes 53."""
MOST_UNBACKED_SYMBOLS: Final = 1_000_000
"""Numbers of unbacked symbols end here: torch counts up to the highest."""
LONGEST_NAME: Final = 16_384
"""Characters of the name of a node, an argument, a parameter or an operator."""
LONGEST_TREE_SPEC: Final = 1_000_000
"""Characters of one tree spec."""
MOST_DIMENSIONS: Final = 64
"""Dimensions of one tensor, as in torch itself."""
DEEPEST_GRAPH: Final = 32
"""Subgraphs of higher-order operators inside one another."""
