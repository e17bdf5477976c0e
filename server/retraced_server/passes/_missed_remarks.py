"""Collect missed remarks: why a pass did not fire where it might have."""

from __future__ import annotations

from collections import defaultdict

_EXAMPLES = 3


class MissedRemarks:
    """Missed rewrites by reason, so that a program with a hundred of them gets one line for each reason."""

    def __init__(self) -> None:
        self._nodes: dict[str, list[str]] = defaultdict(list)

    def add(self, reason: str, node: str) -> None:
        """Note that a node was left alone."""
        self._nodes[reason].append(node)

    def lines(self) -> list[str]:
        """One line for each reason."""
        return [
            f"left {len(nodes)} call{'s' if len(nodes) > 1 else ''}: {reason} "
            f"({', '.join(nodes[:_EXAMPLES])}{', ...' if len(nodes) > _EXAMPLES else ''})"
            for reason, nodes in self._nodes.items()
        ]
