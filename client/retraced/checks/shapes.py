"""Checks of the shape of JSON, made of one another: objects with known fields, unions, lists, maps, numbers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Mapping
from typing import Any, Final

from retraced.checks.exact import exact
from retraced.checks.refusal import Refused, shown
from retraced_pt2.errors import FormatError

# Any: what json.loads gives.
Check = Callable[[Any], object]

_LEAST: Final = -(2**63)
_MOST: Final = 2**63 - 1
_WORDS: Final = frozenset(("Infinity", "-Infinity", "NaN"))


def record(name: str, fields: Mapping[str, Check], optional: Collection[str] = ()) -> Check:
    """Return an object with these fields and no others; `optional` ones may be missing."""
    required = fields.keys() - set(optional)

    def check(value: Any) -> None:
        if type(value) is not dict:
            raise Refused(f"a {name} is {shown(value)}, not an object")
        key = ""
        try:
            for key, item in value.items():
                field = fields.get(key)
                if field is None:
                    raise Refused("the schema has no such field")
                field(item)
        except FormatError as error:
            error.where.append(f"{name}.{key[:64]}")
            raise
        if not required <= value.keys():
            raise Refused(f"a {name} lacks {', '.join(sorted(required - value.keys()))}")

    return check


def union(name: str, members: Mapping[str, Check]) -> Check:
    """Return an object with exactly one of these fields."""

    def check(value: Any) -> None:
        if type(value) is not dict or len(value) != 1:
            raise Refused(f"a {name} says exactly one thing, and {shown(value)} does not")
        ((key, item),) = value.items()
        member = members.get(key)
        if member is None:
            raise Refused(f"a {name} cannot be {shown(key)}")
        try:
            member(item)
        except FormatError as error:
            error.where.append(f"{name}.{key}")
            raise

    return check


def list_of(item: Check) -> Check:
    """Return a list."""

    def check(value: Any) -> None:
        if type(value) is not list:
            raise Refused(f"{shown(value)} is not a list")
        for element in value:
            item(element)

    return check


def map_of(key: Check, item: Check) -> Check:
    """Return an object with fields of any number."""

    def check(value: Any) -> None:
        if type(value) is not dict:
            raise Refused(f"{shown(value)} is not an object")
        for name, element in value.items():
            key(name)
            item(element)

    return check


def map_unless_known(key: Check, item: Check, known: Mapping[str, bytes]) -> Check:
    """Return what `map_of` takes; fields that stand in `known` with their value, as `exact` has it, are taken as they are."""

    def check(value: Any) -> None:
        if type(value) is not dict:
            raise Refused(f"{shown(value)} is not an object")
        for name, element in value.items():
            if known.get(name) != exact(element):
                key(name)
                item(element)

    return check


def unless_known(item: Check, known: Container[bytes]) -> Check:
    """Return what `item` takes, and whatever stands in `known` as `exact` has it."""

    def check(value: Any) -> None:
        if exact(value) not in known:
            item(value)

    return check


def nullable(item: Check) -> Check:
    """Null, or what `item` takes."""

    def check(value: Any) -> None:
        if value is not None:
            item(value)

    return check


def one_of(*allowed: object) -> Check:
    """One of these values."""
    values = frozenset(allowed)
    kinds = {type(value) for value in allowed}

    def check(value: Any) -> None:
        if type(value) not in kinds or value not in values:
            raise Refused(f"{shown(value)} is not one of its values")

    return check


def boolean(value: Any) -> None:
    """Check a truth value."""
    if value is not True and value is not False:
        raise Refused(f"{shown(value)} is not a truth value")


def integer(value: Any) -> None:
    """Check an integer of 64 bits."""
    if type(value) is not int or not _LEAST <= value <= _MOST:
        raise Refused(f"{shown(value)} is not an integer of 64 bits")


def size(value: Any) -> None:
    """Check an integer of 64 bits that is not negative."""
    if type(value) is not int or not 0 <= value <= _MOST:
        raise Refused(f"{shown(value)} is not a size")


def number(value: Any) -> None:
    """Check a floating-point number; JSON has no word for three of them, so torch writes them as strings."""
    if type(value) not in (float, int) and not (type(value) is str and value in _WORDS):
        raise Refused(f"{shown(value)} is not a number")


def text(value: Any) -> None:
    """Check a string that torch only keeps, or that `repr` quotes where it stands in generated source."""
    if type(value) is not str:
        raise Refused(f"{shown(value)} is not a string")


def refused(_: Any) -> None:
    """Nothing: what stands here is an object of a class."""
    raise Refused("objects of custom classes are stored pickled")
