"""Find private names of torch and sympy outside of `torch_compat`: `python -m tools.private_names`; `make check` runs it.

Private are modules and names that begin with an underscore, what `torch.fx` keeps in modules of its own, `torch.fx.experimental`, and the
fields of a `ShapeEnv`. Operators may begin with an underscore: they are names of the schema.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from retraced_server.torch_compat.shape_env_fields import FIELDS

_ROOTS = ("client", "server", "format")
_HOME = "torch_compat"
_INTERNAL = re.compile(r"torch\.fx\.(experimental|passes|proxy|traceback|graph|node|interpreter)\b|(torch|sympy)\b.*\._")
# Of other libraries and of Python: documented in spite of the underscore. `_fx` is how torch's base class of passes lets subclasses make nodes.
_PUBLIC = frozenset(("_fields", "_replace", "_asdict", "_exit", "_fx"))
# Fields of a shape environment whose names nothing else has.
_FIELDS = frozenset(name for name in FIELDS if "_" in name.strip("_"))


def private_names(source: str) -> Iterator[tuple[int, str]]:
    """Find the private names of torch and sympy that a file uses.

    Args:
        source: The file's text.

    Yields:
        The line and the name.
    """
    tree = ast.parse(source)
    own = set(_defined(tree))
    namespaces = {name for name, value in _assigned(tree) if _is_operators(value, set())}
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from ((node.lineno, alias.name) for alias in names if _INTERNAL.match(f"{alias.name}."))
            case ast.ImportFrom(module=str(module), names=names):
                full = ((alias.lineno, f"{module}.{alias.name}") for alias in names)
                yield from ((line, name) for line, name in full if _INTERNAL.match(name))
            case ast.Attribute(value=value, attr=name) if _is_private(name) or name in _FIELDS:
                is_own = isinstance(value, ast.Name) and value.id in ("self", "cls")
                if not (is_own or name in own or name in _PUBLIC or _is_operators(value, namespaces)):
                    yield node.lineno, ast.unparse(node)


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def _defined(tree: ast.Module) -> Iterator[str]:
    """Yield what a file defines: functions, classes, variables and attributes."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, (ast.Name, ast.Attribute)) and isinstance(node.ctx, ast.Store):
            is_own = isinstance(node, ast.Name) or (isinstance(node.value, ast.Name) and node.value.id == "self")
            if is_own:
                yield node.id if isinstance(node, ast.Name) else node.attr


def _assigned(tree: ast.Module) -> Iterator[tuple[str, ast.expr]]:
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            yield node.targets[0].id, node.value


def _is_operators(value: ast.expr, namespaces: set[str]) -> bool:
    """Whether an expression is a namespace of operators, or an operator."""
    text = ast.unparse(value)
    return text.startswith("torch.ops.") or text.partition(".")[0] in namespaces


def main() -> int:
    """Print what stands where it should not, and return the exit status."""
    found = [
        f"{path}:{line}: {name} is private: give it a name in {_HOME}/"
        for root in _ROOTS
        for path in sorted(Path(root).rglob("*.py"))
        if _HOME not in path.parts and not path.stem.endswith("_pb2")
        for line, name in private_names(path.read_text())
    ]
    print(*found, sep="\n", end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
