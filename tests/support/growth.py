"""How work grows with the size of a graph, by function calls that are counted."""

from __future__ import annotations

import cProfile
import math
from collections.abc import Callable, Sequence


def calls(task: Callable[[], object]) -> int:
    """Count the function calls of a task."""
    # Not which function has called which, which takes time to keep.
    profile = cProfile.Profile(subcalls=False)
    profile.runcall(task)
    return sum(entry.callcount for entry in profile.getstats())


def exponent(counts: Sequence[int], sizes: Sequence[int]) -> float:
    """Return the power of a graph's size by which its work grows, from the counts for two sizes."""
    return math.log(counts[1] / counts[0]) / math.log(sizes[1] / sizes[0])
