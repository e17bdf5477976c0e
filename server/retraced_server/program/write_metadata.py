"""From the metadata of nodes and graphs to the texts that the schema has for it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from retraced_server.program.errors import cause, program_unsupported
from retraced_server.program.operators import operator_name
from retraced_server.torch_compat.graphs import NodeSource

_DELIMITER = ";"


def write_metadata(meta: Mapping[str, Any]) -> dict[str, str]:
    """Return the metadata of a node, as far as the schema has a place for it.

    Raises:
        RetracedError: PROGRAM_UNSUPPORTED where its custom metadata is no JSON.
    """
    written: dict[str, str] = {}
    if stack_trace := meta.get("stack_trace"):
        written["stack_trace"] = stack_trace
    if module_stack := meta.get("nn_module_stack"):
        written["nn_module_stack"] = _DELIMITER.join([f"{key},{path},{kind}" for key, (path, kind) in module_stack.items()])
    if functions := meta.get("source_fn_stack"):
        written["source_fn_stack"] = _DELIMITER.join([f"{name},{operator_name(function)}" for name, function in functions])
    if torch_fn := meta.get("torch_fn"):
        written["torch_fn"] = _DELIMITER.join(torch_fn)
    if custom := meta.get("custom"):
        written["custom"] = write_custom(custom)
    if "from_node" in meta:
        sources = meta["from_node"]
        origins = None if sources is None else [source.to_dict() for source in sources if isinstance(source, NodeSource)]
        written["from_node"] = json.dumps(origins)
    return written


def write_graph_metadata(meta: Mapping[str, Any]) -> dict[str, str]:
    """Return the metadata of a graph module.

    Raises:
        RetracedError: PROGRAM_UNSUPPORTED where its custom metadata is no JSON.
    """
    return {"custom": write_custom(custom)} if (custom := meta.get("custom")) else {}


def write_custom(custom: Any) -> str:
    """Write the annotations of the user as JSON.

    Raises:
        RetracedError: PROGRAM_UNSUPPORTED where they are no JSON.
    """
    try:
        return json.dumps(custom)
    except (TypeError, ValueError, RecursionError) as error:
        raise program_unsupported(f"custom metadata has no serialized form: {cause(error)}") from error
