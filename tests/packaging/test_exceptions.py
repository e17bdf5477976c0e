"""A server keeps no exception object to be raised again: its traceback would keep every call alive that it has ended.

The client's feeds hand one from the thread that sends to the call that it is of, once.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_SOURCES = sorted(
    path
    for folder in ("format", "server")
    for path in (_ROOT / folder).rglob("*.py")
    if not path.name.endswith(("_pb2.py", "_pb2_grpc.py"))
)
_BUILT_IN = {name for name, value in vars(builtins).items() if isinstance(value, type) and issubclass(value, BaseException)}


def _is_attribute(node: ast.expr | None) -> bool:
    match node:
        case ast.Attribute():
            # A class of a module is raised as a new object.
            return not node.attr[0].isupper()
        case ast.BoolOp():
            return any(map(_is_attribute, node.values))
        case ast.IfExp():
            return _is_attribute(node.body) or _is_attribute(node.orelse)
        case _:
            return False


def _names_exception(annotation: ast.expr, exceptions: set[str]) -> bool:
    # What a callable or a type of exceptions is made of holds none.
    if isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) in ("type", "Callable", "dict", "Mapping"):
        return False
    names = {node.id for node in ast.walk(annotation) if isinstance(node, ast.Name)}
    return bool(names & exceptions)


def kept_exceptions(source: str, exceptions: set[str]) -> Iterator[int]:
    """Yield the lines where an attribute holds an exception, or is raised."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Raise(exc=raised) if _is_attribute(raised):
                yield node.lineno
            case ast.AnnAssign(target=ast.Attribute(), annotation=annotation) if _names_exception(annotation, exceptions):
                yield node.lineno


def _exceptions() -> set[str]:
    found = set(_BUILT_IN)
    classes = {
        node.name: {ast.unparse(base).split(".")[-1] for base in node.bases}
        for path in _SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
    }
    while more := {name for name, bases in classes.items() if bases & found and name not in found}:
        found |= more
    return found


def test_no_attribute_holds_an_exception_or_is_raised() -> None:
    exceptions = _exceptions()
    found = [f"{path.relative_to(_ROOT)}:{line}" for path in _SOURCES for line in kept_exceptions(path.read_text(), exceptions)]
    assert found == []


@pytest.mark.parametrize(
    "body",
    [
        "raise self._failure",
        "raise self._cause or made()",
        "self._failure: RetracedError | None = None",
        "self._e: OSError = e",
    ],
)
def test_kept_exceptions_are_found(body: str) -> None:
    assert list(kept_exceptions(f"def method(self, e):\n    {body}\n", _exceptions())) == [2]
