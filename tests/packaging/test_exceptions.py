"""A server keeps no exception object to be raised again: its traceback would keep every call alive that it has ended.

The client's feeds hand one from the thread that sends to the call that it is of, once.
"""

from __future__ import annotations

import ast
import builtins
import functools
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


def _makes_exception(value: ast.expr | None, exceptions: set[str]) -> bool:
    return isinstance(value, ast.Call) and ast.unparse(value.func).split(".")[-1] in exceptions


def _kept(node: ast.AST, exceptions: set[str]) -> Iterator[int]:
    """Yield the lines where what outlives a call holds an exception: an attribute, a field of a class, a name of a module, a future."""
    match node:
        case ast.Raise(exc=raised) if _is_attribute(raised):
            yield node.lineno
        case ast.AnnAssign(target=ast.Attribute(), annotation=annotation) if _names_exception(annotation, exceptions):
            yield node.lineno
        case ast.Assign(targets=[*targets], value=value) if any(not isinstance(target, ast.Name) for target in targets):
            if _makes_exception(value, exceptions):
                yield node.lineno
        case ast.Call(func=ast.Attribute(attr="set_exception")):
            yield node.lineno
        case ast.Module(body=body) | ast.ClassDef(body=body):
            for statement in body:
                match statement:
                    case ast.Assign(targets=[ast.Name()], value=made) if _makes_exception(made, exceptions):
                        yield statement.lineno
                    case ast.AnnAssign(annotation=annotation, value=made):
                        if _makes_exception(made, exceptions) or _names_exception(annotation, exceptions):
                            yield statement.lineno
        case ast.ExceptHandler(name=str(name), body=body):
            # What was caught is given to something that is not the handler's own.
            for inner in (inner for statement in body for inner in ast.walk(statement)):
                match inner:
                    case ast.Assign(targets=[*targets], value=ast.Name(id=given)) if given == name:
                        if any(not isinstance(target, ast.Name) for target in targets):
                            yield inner.lineno
                    case ast.Call(func=ast.Attribute(attr="append" | "add" | "put" | "put_nowait"), args=[ast.Name(id=given)]):
                        if given == name:
                            yield inner.lineno


def kept_exceptions(source: str, exceptions: set[str]) -> Iterator[int]:
    """Yield the lines where something that outlives a call holds an exception, or where an attribute is raised."""
    for node in ast.walk(ast.parse(source)):
        yield from _kept(node, exceptions)


@functools.cache
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


def test_nothing_that_outlives_a_call_holds_an_exception() -> None:
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


@pytest.mark.parametrize(
    "source",
    [
        "_GONE = RetracedError(1, 'gone')",
        "_GONE: Final = errors.RetracedError(1, 'gone')",
        "class Outcome:\n    error: RetracedError | None = None",
        "class Place:\n    gone = OSError()",
        "self._failure = RetracedError(1, 'gone')",
        "self._failures[name] = RetracedError(1, 'gone')",
        "try:\n    pass\nexcept OSError as error:\n    self._error = error",
        "try:\n    pass\nexcept OSError as error:\n    self._errors.append(error)",
        "waiter.set_exception(RetracedError(1, 'gone'))",
    ],
)
def test_whatever_way_exceptions_are_kept_is_found(source: str) -> None:
    assert list(kept_exceptions(source, _exceptions())) == [len(source.splitlines())]


@pytest.mark.parametrize(
    "source",
    [
        "def f():\n    error = RetracedError(1, 'no')\n    raise error",
        "try:\n    pass\nexcept OSError as error:\n    text = str(error)\n    lines.append(text)",
        "self._failure = Failure(1, 'gone')",
        "self._class: type[OSError] = OSError",
        "class Reason(Enum):\n    GONE = 1",
    ],
)
def test_what_holds_none_is_not_found(source: str) -> None:
    assert list(kept_exceptions(source, _exceptions())) == []
