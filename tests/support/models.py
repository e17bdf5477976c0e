"""The test programs by name: architectures, control flow, and programs written by hand."""

from __future__ import annotations

from .architectures import ARCHITECTURES, DEEP_ARCHITECTURES, LLAMA_LIKE
from .case import Inputs, ProgramCase
from .control_flow import CONTROL_FLOW
from .programs import PROGRAMS

__all__ = ["ALL_CASES", "DEEP_ARCHITECTURES", "LLAMA_LIKE", "Inputs", "ProgramCase", "by_name", "by_tag"]

#: Every program but the benchmark-sized ones.
ALL_CASES: tuple[ProgramCase, ...] = (*PROGRAMS, *CONTROL_FLOW, *ARCHITECTURES)

_BY_NAME = {case.name: case for case in (*ALL_CASES, *DEEP_ARCHITECTURES.values())}


def by_name(name: str) -> ProgramCase:
    """Returns the case of that name. Raises `KeyError` if there is none."""
    return _BY_NAME[name]


def by_tag(tag: str) -> tuple[ProgramCase, ...]:
    """Returns the cases with a tag: `architecture`, `higher-order`, `in-place`, `mutation` or `unbacked`."""
    return tuple(case for case in ALL_CASES if tag in case.tags)
