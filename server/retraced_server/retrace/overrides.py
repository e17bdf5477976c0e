"""Which methods of an engine class a subclass overrides, and those that it may not, since they would never be called."""

from __future__ import annotations

from collections.abc import Iterable, Mapping


def overrides(cls: type, base: type, names: Iterable[str]) -> bool:
    """Return whether a class has any of some methods of a base class otherwise than that has it."""
    return any(getattr(cls, name) is not getattr(base, name) for name in names)


def refuse_overrides(cls: type, base: type, instead: Mapping[str, str]) -> None:
    """Raise for a method that a class defines or takes from another class, and that nothing would call.

    Args:
        cls: The class that is made.
        base: The engine class that it is a subclass of.
        instead: For each such method the one to override in its place.

    Raises:
        TypeError: There is one.
    """
    for name in instead:
        if overrides(cls, base, (name,)):
            raise TypeError(f"{cls.__qualname__}.{name} would never be called: override `{instead[name]}` instead")
