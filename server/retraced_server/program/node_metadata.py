"""Reads the metadata of nodes: stack traces, module stacks, provenance. All of it is inert; none of it is evaluated or imported."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec
import torch
from msgspec import UNSET, Struct, UnsetType

from retraced_pt2.errors import shortened
from retraced_server.errors import RetracedError
from retraced_server.program.errors import cause, program_invalid, program_unsupported
from retraced_server.program.operators import Operators
from retraced_server.program.options import DEEPEST_CUSTOM, LONGEST_STACK
from retraced_server.torch_compat.graphs import NodeSource, NodeSourceAction, empty_node_source
from retraced_server.torch_compat.operators import nn_functions

_DELIMITER: Final = ";"
_DEEPEST_SOURCE: Final = 200
_ACTIONS: Final = {action.name: action for action in NodeSourceAction}


class _Source(Struct, forbid_unknown_fields=True, gc=False):
    name: str | UnsetType = UNSET
    target: str | UnsetType = UNSET
    graph_id: int | UnsetType = UNSET
    pass_name: str = ""
    action: str = ""
    from_node: list[_Source] | None = None


_SOURCES: Final = msgspec.json.Decoder(list[_Source | None] | None)


class MetadataReader:
    """Reads the metadata of one program's nodes; what repeats is read once and copied.

    Args:
        operators: Finds the operators that source functions name.
    """

    def __init__(self, operators: Operators) -> None:
        self._operators = operators
        self._module_stacks: dict[str, dict[str, tuple[str, str]]] = {}
        self._functions: dict[str, Any] = {}

    def read(self, metadata: Mapping[str, str]) -> dict[str, Any]:
        """Return the metadata of a node as its `meta` holds it. `Any`: each key has its own type of value.

        Raises:
            RetracedError: PROGRAM_INVALID where an entry is not as torch writes it, PROGRAM_UNSUPPORTED where it is unknown or nested too deep.
        """
        meta: dict[str, Any] = {}
        for key, text in metadata.items():
            if not text:
                continue
            if key == "stack_trace":
                meta[key] = text
            elif key == "nn_module_stack":
                meta[key] = self._module_stack(text).copy()
            elif key == "torch_fn":
                meta[key] = tuple(_entries(text))
            elif key == "from_node":
                meta[key] = _read_sources(text)
            elif key == "source_fn_stack":
                meta[key] = self._source_functions(text)
            elif key == "custom":
                meta[key] = read_custom(text)
            else:
                raise program_unsupported(
                    f"the metadata of a node has the key `{shortened(key, 64)}`, which the schema does not have"
                )
        return meta

    def _module_stack(self, text: str) -> dict[str, tuple[str, str]]:
        found = self._module_stacks.get(text)
        if found is None:
            found = {}
            for entry in _entries(text):
                parts = _split(entry)
                if len(parts) != 3:
                    raise program_invalid(f"`{shortened(entry, 200)}` is no entry of a module stack: key, path and type")
                found[parts[0]] = (parts[1], parts[2])
            self._module_stacks[text] = found
        return found

    def _source_functions(self, text: str) -> list[tuple[str, Any]]:
        stack = []
        for entry in _entries(text):
            parts = entry.split(",")
            if len(parts) != 2:
                raise program_invalid(f"`{shortened(entry, 200)}` is no entry of a source function stack: name and function")
            if parts[1] not in self._functions:
                self._functions[parts[1]] = self._function(parts[1])
            stack.append((parts[0], self._functions[parts[1]]))
        return stack

    def _function(self, name: str) -> Any:
        found = _known_functions().get(name)
        if found is not None:
            return found
        try:
            return self._operators.find(name)
        except RetracedError:
            # torch leaves the name of what it does not find.
            return name


def read_custom(text: str) -> Any:
    """Read the annotations that a user gave to a node or a graph: any JSON.

    Raises:
        RetracedError: PROGRAM_INVALID where it is no JSON, PROGRAM_UNSUPPORTED where it is nested too deep to be copied.
    """
    try:
        read = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise program_invalid(f"the custom metadata `{shortened(text, 200)}` is not JSON: {cause(error)}") from error
    level, depth = [read], 0
    while level := [inner for each in level for inner in _contained(each)]:
        depth += 1
        if depth > DEEPEST_CUSTOM:
            raise program_unsupported(f"custom metadata is nested deeper than {DEEPEST_CUSTOM}")
    return read


def _contained(value: Any) -> Iterable[Any]:
    return value if isinstance(value, list) else value.values() if isinstance(value, dict) else ()


def _entries(text: str) -> list[str]:
    entries = text.split(_DELIMITER, LONGEST_STACK)
    if len(entries) > LONGEST_STACK:
        raise program_unsupported(f"a stack in the metadata of a node has more than {LONGEST_STACK} entries")
    return entries


def _split(entry: str) -> list[str]:
    """Split at commas that stand in no parentheses or brackets, as torch does."""
    if entry.count(",") == 2 and "(" not in entry and "[" not in entry:
        return entry.split(",")
    parts = []
    start = depth = 0
    for end, character in enumerate(entry):
        if character in "[(":
            depth += 1
        elif character in ")]":
            depth -= 1
        elif character == "," and depth == 0:
            parts.append(entry[start:end])
            start = end + 1
    parts.append(entry[start:])
    return parts


def _read_sources(text: str) -> list[NodeSource] | None:
    try:
        sources = _SOURCES.decode(text)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise program_invalid(f"the provenance `{shortened(text, 200)}` cannot be read: {cause(error)}") from error
    return None if sources is None else [_source(source, 0) for source in sources if source is not None]


def _source(read: _Source, depth: int) -> NodeSource:
    if depth > _DEEPEST_SOURCE:
        raise program_unsupported(f"the provenance of a node is deeper than {_DEEPEST_SOURCE} steps")
    source = empty_node_source()
    source.pass_name = read.pass_name
    source.action = [_ACTIONS[name] for name in read.action.upper().split("+") if name in _ACTIONS] if read.action else []
    source.node_info = None
    if read.name is not UNSET and read.target is not UNSET and read.graph_id is not UNSET:
        source.node_info = NodeSource.NodeInfo(read.name, read.target, read.graph_id)
    source.from_node = [_source(origin, depth + 1) for origin in read.from_node] if read.from_node else []
    return source


@functools.cache
def _known_functions() -> dict[str, Any]:
    """Return the functions and module classes of torch that source function stacks name: those found under their own full names."""
    found: dict[str, Any] = {}
    for namespace in (torch, torch.nn.functional, nn_functions, torch.nn):
        for value in vars(namespace).values():
            module, name = getattr(value, "__module__", None), getattr(value, "__name__", None)
            if callable(value) and isinstance(module, str) and isinstance(name, str) and module.startswith("torch"):
                found[f"{module}.{name}"] = value
    return found
