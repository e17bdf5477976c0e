"""Whether sample inputs of one program still fit another, from their model records."""

from __future__ import annotations

from typing import Any

# What json.loads gives.
_Object = dict[str, Any]


def same_user_inputs(before: _Object, after: _Object) -> bool:
    """Whether two programs take the same arguments: count, order, nesting, names, types, devices and specialised sizes."""
    return _described(before) == _described(after)


def _described(program: _Object) -> list[Any]:
    module = program["graph_module"]
    graph = module["graph"]
    described: list[Any] = [call["signature"]["in_spec"] for call in module["module_call_graph"] if call["fqn"] == ""]
    for spec in module["signature"]["input_specs"]:
        if "constant_input" in spec:
            described.append(spec)
        elif "user_input" in spec:
            argument = spec["user_input"]["arg"]
            described.append(argument)
            described.extend(
                _value(graph, str(member.get("name", member.get("as_name"))))
                for member in argument.values()
                if isinstance(member, dict)
            )
    return described


def _value(graph: _Object, name: str) -> Any:
    tensor = graph["tensor_values"].get(name)
    if tensor is None:
        kinds = ("sym_int_values", "sym_float_values", "sym_bool_values")
        return [(kind, list(graph[kind][name])) for kind in kinds if name in graph.get(kind, {})]
    device = tensor["device"]
    return tensor["dtype"], device["type"], device.get("index"), [size.get("as_int") for size in tensor["sizes"]]
