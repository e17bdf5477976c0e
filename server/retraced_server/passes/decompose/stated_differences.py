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
        "assertion that torch derives again",
        "Torch derives assertions about symbols from the shape environment, beside those that the program has and that it executes; ours keeps "
        "the program's.",
        re.compile(r"^ours has `[\w.:]+` = aten\._assert_scalar\.default\(.*\) once, theirs 2 times"),
    ),
    Reason(
        "offset that torch's cache loses",
        "`copy` of a view has the view's storage offset when it is executed; torch's cache of fake results makes tensors without one, and it "
        "traces a program a second time, with what is in the cache.",
        re.compile(r"= aten\.copy\.default\(.*\) is recorded with storage offset .+, and with 0 in theirs"),
    ),
    Reason(
        "order of what is lifted",
        "Torch moves constants behind buffers; ours keeps the order of the program's inputs.",
        re.compile(
            r"^of the inputs in the signature number \d+ is \(\(?(BUFFER|CONSTANT_TENSOR|PARAMETER), .* in ours and "
            r"\(\(?(BUFFER|CONSTANT_TENSOR|PARAMETER), .* in theirs$"
        ),
    ),
    Reason(
        "strides of a view",
        "Torch writes a stride as the least of two where a size may be 0, or, where export did so, does not; ours keeps what the program has "
        "recorded.",
        re.compile(
            r"is recorded with strides \(.*\), and with \(.*\bMin\(.*\) in theirs"
            r"|= aten\.view\.default\(.*\) is recorded with strides \(Min\((\d+), .*\), 1\), and with \(\1, 1\) in theirs"
        ),
    ),
    Reason(
        "size that torch fixes",
        "The second of torch's traces asks whether sizes are equal, or a certain number, to find strides, and a dynamic size of the program "
        "becomes that one; ours stays as dynamic as the program was, which is compared too.",
        re.compile(r" = placeholder is recorded with shape .*\bvalue[\d.]+.*, and with .* in theirs"),
    ),
    Reason(
        "item or size that nothing uses",
        "A program with nothing to decompose comes back as it was, items of results and sizes that nothing needs included; torch drops them.",
        re.compile(
            r"^ours has `[\w.:]+` = <built-in function getitem>\(.*\), which theirs has not; nothing uses it$"
            r"|^ours computes sizes by .*; the others are known, or nothing uses them$"
        ),
    ),
    Reason(
        "offset that export recorded",
        "Export records results of `while_loop` with a storage offset that is a symbol, though they begin at 0. A program with nothing to "
        "decompose comes back as it was, recorded values included; torch records them anew.",
        re.compile(r"^`while_loop.*` = while_loop\(.* is recorded with item \d+ of storage offset .*, and with 0 in theirs"),
    ),
)
# How many more values differ since others do.
_FOLLOWING = re.compile(r"^\d+ (more )?values .*")


def reason_of(difference: str) -> Reason | None:
    """Return the reason of a difference; None where none is stated."""
    return next((reason for reason in REASONS if reason.pattern.search(difference)), None)


def unexplained(differences: Iterable[str]) -> list[str]:
    """Return the differences without a stated reason; what is counted as following from others has their reasons."""
    found = list(differences)
    unstated = [difference for difference in found if reason_of(difference) is None]
    is_following = all(map(_FOLLOWING.match, unstated)) and len(unstated) < len(found)
    return [] if is_following else unstated
