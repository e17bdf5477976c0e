"""The pass catalogue as data: what passes there are and which options they take.

The front end has no torch, so it knows passes only through these descriptions, which the zygote sends when it is ready.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

OptionValue = bool | int | float | str


class OptionType(Enum):
    """The type of an option's value."""

    BOOL = "bool"
    INT = "int"
    FLOAT = "float"
    STRING = "string"
    CHOICE = "choice"


class IrLevel(Enum):
    """The level of the intermediate representation that a pass takes."""

    ANY = "any"
    FUNCTIONAL = "functional"
    CORE_ATEN = "core-aten"


class WeightsNeed(Enum):
    """What a pass reads of weights, each more than the one before. What none of a pipeline reads is not mapped into the worker."""

    NONE = "none"
    DIGESTS = "digests"
    VALUES = "values"

    def __bool__(self) -> bool:
        return self is not WeightsNeed.NONE


@dataclass(frozen=True)
class OptionInfo:
    """One option of a pass. `default` is None where the option must be given."""

    name: str
    summary: str
    type: OptionType
    default: OptionValue | None = None
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class PassInfo:
    """A pass that can be named in a pipeline. `options` are in the order of the canonical text."""

    name: str
    summary: str
    description: str = ""
    options: tuple[OptionInfo, ...] = ()
    needs_weights: WeightsNeed = WeightsNeed.NONE
    ir_level: IrLevel = IrLevel.ANY
    provider: str = "retraced"


Catalogue = Mapping[str, PassInfo]
