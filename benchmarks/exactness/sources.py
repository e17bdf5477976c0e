"""The programs on which decompositions are compared, by source and name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tests.support.architectures import ARCHITECTURES, LLAMA_LIKE
from tests.support.case import ProgramCase
from tests.support.control_flow import CONTROL_FLOW
from tests.support.operator_samples import sample_case, sample_names
from tests.support.programs import PROGRAMS
from tests.support.public_models import PUBLIC_MODELS
from tests.support.random_programs import drawn_program

_RANDOM_PROGRAMS = 500


@dataclass(frozen=True)
class Source:
    """Programs of one origin.

    Attributes:
        names: Gives their names.
        case: Makes one by its name; raises `LookupError` where there is none.
    """

    names: Callable[[], Iterable[str]]
    case: Callable[[str], ProgramCase]


def _of(*cases: ProgramCase) -> Source:
    by_name = {case.name: case for case in cases}
    return Source(lambda: by_name, by_name.__getitem__)


SOURCES: dict[str, Source] = {
    "architectures": _of(*ARCHITECTURES, LLAMA_LIKE),
    "programs": _of(*PROGRAMS, *CONTROL_FLOW),
    "models": _of(*PUBLIC_MODELS),
    "random": Source(lambda: map(str, range(_RANDOM_PROGRAMS)), lambda name: drawn_program(int(name))),
    "operators": Source(sample_names, sample_case),
}


def evenly(names: Iterable[str], most: int | None) -> list[str]:
    """Take so many of some names at most, at equal distances."""
    every = list(names)
    if most is None or most >= len(every):
        return every
    return [every[place * len(every) // most] for place in range(most)]
