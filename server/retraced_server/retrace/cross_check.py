"""Cross-check the incremental mode against the full one: two retraces of one graph by one pass must agree."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from torch import fx

from retraced_server.analysis.graphs import walk_graphs
from retraced_server.retrace.compare import Comparison
from retraced_server.retrace.errors import ExportPassError
from retraced_server.retrace.export_pass import ExportPass
from retraced_server.retrace.pass_context import PassContext, pass_context
from retraced_server.retrace.values import free_symbols
from retraced_server.torch_compat.graphs import PassResult
from retraced_server.torch_compat.shape_env_transaction import ShapeEnvTransaction
from retraced_server.torch_compat.symbolic_shapes import shape_env_of


def run_checked(instance: ExportPass, module: fx.GraphModule) -> PassResult:
    """Run a pass in the context that is entered, after a copy of it has run in full mode, which leaves no trace.

    Each of its hooks is called twice.

    Raises:
        ExportPassError: The two disagree.
        PassError: Either failed.
    """
    context = pass_context()
    trial = ShapeEnvTransaction(shape_env_of(module))
    with PassContext("full", context.kept_names, context.preserved_modules, weights_of=context.weights_of) as full:
        try:
            expected = copy.copy(instance)(module)
        finally:
            trial.roll_back()
    result = instance(module)
    found = disagreement(expected.graph_module, result.graph_module)
    if found is None and len(full.new_guards) != len(context.new_guards):
        found = f"new guards: {full.new_guards} in full mode, {context.new_guards} incrementally"
    if found is not None:
        raise ExportPassError(
            f"an incremental retrace gives something else than a full one, which is an error of the engine: {found}; mode 'full' avoids it"
        )
    return result


def disagreement(full: fx.GraphModule, incremental: fx.GraphModule) -> str | None:
    """Return the first difference of two graphs or their subgraphs, but for the names of new symbols; None where they agree.

    Nodes, names, arguments and recorded values are compared.
    """
    one, other = dict(walk_graphs(full)), dict(walk_graphs(incremental))
    if one.keys() != other.keys():
        return f"the subgraphs are {sorted(one)} in full mode, {sorted(other)} incrementally"
    return next((found for path in one for found in _differences(path, one[path], other[path])), None)


def _differences(path: str, full: fx.GraphModule, incremental: fx.GraphModule) -> Iterator[str]:
    if len(full.graph.nodes) != len(incremental.graph.nodes):
        yield f"graph '{path}' has {len(full.graph.nodes)} nodes in full mode, {len(incremental.graph.nodes)} incrementally"
        return
    for one, other in zip(full.graph.nodes, incremental.graph.nodes, strict=True):
        if one is other:
            continue
        where = f"node '{one.name}'" + (f" of graph '{path}'" if path else "")
        # A node is written as its name, so that equal text is equal arguments.
        if (one.op, one.name, one.target, str(one.args), str(one.kwargs)) != (
            other.op,
            other.name,
            other.target,
            str(other.args),
            str(other.kwargs),
        ):
            yield f"{where} is {one.format_node()} in full mode, {other.format_node()} incrementally"
        elif one.meta.keys() != other.meta.keys():
            yield f"{where} has the metadata {sorted(one.meta)} in full mode, {sorted(other.meta)} incrementally"
        elif (found := _value_difference(one.meta.get("val"), other.meta.get("val"))) is not None:
            yield f"{where}: {found}"


# A recorded value is whatever an operator returns.
def _value_difference(full: Any, incremental: Any) -> str | None:
    if full is incremental:
        return None
    if full is None or incremental is None:
        return "it has a value in one mode only"
    comparison = Comparison(None, free_symbols(incremental).keys() - free_symbols(full).keys())
    comparison.compare(full, incremental)
    if comparison.error is not None:
        return comparison.error
    return None if not comparison.remarks else f"another {', '.join(sorted(comparison.remarks))}"
