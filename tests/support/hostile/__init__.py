"""Archives that do something to who reads them. Each effect is harmless: an empty file, a value shown, memory or time up to a limit."""

from __future__ import annotations

from . import archives, expressions, names, operators, pickles, sizes, trees
from .route import Effect, Route

__all__ = ["ROUTES", "Effect", "Route"]

#: All routes that are known into a reader of programs.
ROUTES: tuple[Route, ...] = (
    *expressions.ROUTES,
    *names.ROUTES,
    *pickles.ROUTES,
    *trees.ROUTES,
    *operators.ROUTES,
    *archives.ROUTES,
    *sizes.ROUTES,
)
