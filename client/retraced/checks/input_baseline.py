"""The baseline that an output is compared with: what the input program holds beyond the plain, which may come back as it was."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from retraced.checks.exact import exact
from retraced.checks.operators import split_operator
from retraced.checks.tree_specs import Registered, is_plain_key, registered

# What json.loads gives: its shape is checked by using it.
_Object = dict[str, Any]
_PATHS = ("parameter_name", "buffer_name", "tensor_constant_name")
# What a record of JSON that is no program makes of the code below.
_NO_PROGRAM = (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError)


@dataclass(frozen=True)
class InputBaseline:
    """What an output may repeat of the caller's own program.

    Attributes:
        guards: Its guards.
        namespaces: The namespaces of its operators.
        frames: The entries of its module stacks.
        paths: The names of its parameters, buffers, constants and modules.
        registered: The nodes of its tree specs that are no plain containers.
        keys: The keys in its tree specs that are no plain ones.
        nodes: Its nodes, those of subgraphs too, each as `exact` has it. One that comes back as it was does in torch what it did in
            the caller's own file.
        tensors: The descriptions of its tensors by name, likewise; where subgraphs share a name, one of them.
        signature: Its signature, likewise.
        calls: The calls of its modules, likewise.
    """

    guards: frozenset[str] = frozenset()
    namespaces: frozenset[str] = frozenset()
    frames: frozenset[str] = frozenset()
    paths: frozenset[str] = frozenset()
    registered: frozenset[Registered] = frozenset()
    keys: frozenset[str] = frozenset()
    nodes: frozenset[bytes] = field(default=frozenset(), repr=False)
    tensors: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    signature: frozenset[bytes] = field(default=frozenset(), repr=False)
    calls: frozenset[bytes] = field(default=frozenset(), repr=False)


def input_baseline(model: bytes, namespaces: frozenset[str]) -> InputBaseline:
    """Return the baseline of an input's model record; an empty one where it is no program's.

    Args:
        model: The record.
        namespaces: Namespaces of operators that the caller allows besides.
    """
    try:
        program = json.loads(model)
        module = program["graph_module"]
        graphs = list(_graphs(module["graph"]))
        nodes = [node for graph in graphs for node in graph["nodes"]]
        parts = [split_operator(node["target"]) for node in nodes]
        stacks = {node["metadata"].get("nn_module_stack", "") for node in nodes}
        found, keys = _tree_nodes(module["module_call_graph"])
        return InputBaseline(
            frozenset(program.get("guards_code", ())),
            namespaces | {part[0] for part in parts if part is not None},
            frozenset(frame for stack in stacks for frame in stack.split(";")),
            frozenset(_paths(module)),
            found,
            keys,
            frozenset(map(exact, nodes)),
            {name: exact(tensor) for graph in graphs for name, tensor in graph["tensor_values"].items()},
            frozenset((exact(module["signature"]),)),
            frozenset((exact(module["module_call_graph"]),)),
        )
    except _NO_PROGRAM:
        return InputBaseline(namespaces=namespaces)


def _graphs(graph: _Object) -> Iterator[_Object]:
    yield graph
    for node in graph["nodes"]:
        for argument in node["inputs"]:
            if "as_graph" in argument["arg"]:
                yield from _graphs(argument["arg"]["as_graph"]["graph"])


def _paths(module: _Object) -> Iterator[str]:
    for spec in module["signature"]["input_specs"]:
        for described in spec.values():
            yield from (value for key, value in described.items() if key in _PATHS)
    yield from (call["fqn"] for call in module["module_call_graph"])


def _tree_nodes(calls: list[_Object]) -> tuple[frozenset[Registered], frozenset[str]]:
    signatures = [call["signature"] for call in calls if call.get("signature")]
    found: set[Registered] = set()
    keys: set[str] = set()
    waiting = [json.loads(text)[1] for text in {spec for call in signatures for spec in (call["in_spec"], call["out_spec"])}]
    while waiting:
        node = waiting.pop()
        waiting.extend(node["children_spec"])
        if node["type"] is None:
            continue
        context = node["context"]
        found.add(registered(node["type"], context))
        if node["type"] == "collections.defaultdict":
            listed = context["dict_context"]
        else:
            listed = json.loads(context) if isinstance(context, str) and context.startswith("[") else ()
        keys.update(key for key in listed if isinstance(key, str) and not is_plain_key(key))
    return frozenset(found), frozenset(keys)
