"""Why ours may differ from what torch makes of a program: each reason with the differences that it stands for."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Reason:
    """A difference that is meant.

    Attributes:
        name: A few words.
        why: Why ours is right.
        pattern: What the sentence of such a difference has in it.
    """

    name: str
    why: str
    pattern: re.Pattern[str]


REASONS: tuple[Reason, ...] = (
    Reason(
        "copy of what an input becomes",
        "Each time that torch traces a program it copies the new value of an input that is written to, though nothing of it changes by that; "
        "ours does not, so that a program that was decomposed comes back as it was.",
        re.compile(r"^theirs has `\w+` = aten\.copy\.default\(.*\), which ours has not"),
    ),
    Reason(
        "item that nothing uses",
        "A program with nothing to decompose comes back as it was, items of results that nothing uses included; torch drops them.",
        re.compile(r"^ours has `[\w.:]+` = <built-in function getitem>\(.*\), which theirs has not; nothing uses it$"),
    ),
)


def reason_of(difference: str) -> Reason | None:
    """Return the reason of a difference; None where none is stated."""
    return next((reason for reason in REASONS if reason.pattern.search(difference)), None)


def unexplained(differences: Iterable[str]) -> list[str]:
    """Return the differences without a stated reason."""
    return [difference for difference in differences if reason_of(difference) is None]
