"""Dead code elimination."""

from __future__ import annotations

from collections.abc import Iterator

import sympy
from torch import fx

from retraced_server.analysis.attributes import delete_attribute, set_attribute
from retraced_server.analysis.effects import draws_random_numbers, has_effect, subgraphs
from retraced_server.analysis.graphs import count_nodes, subgraph_of, walk_graphs
from retraced_server.passes._missed_remarks import MissedRemarks
from retraced_server.passes.registry import register_pass
from retraced_server.retrace import PassBase, PassResult, pass_context
from retraced_server.retrace.constants import copy_graph_module
from retraced_server.retrace.values import free_symbols


@register_pass("dce")
class DeadCodeElimination(PassBase):
    """Remove calls whose results nothing uses, in every graph, and the subgraphs that only they called.

    Calls that do more than compute a result stay: those that assert, write to their arguments, print, are ordered by an effect token or
    draw random numbers, and higher-order operators with such a call in a subgraph. So does what they are made of. A call that defines an
    unbacked symbol stays while another value's size is written with the symbol. Inputs stay, and so do outputs of subgraphs that their
    callers do not use.
    """

    def call(self, graph_module: fx.GraphModule) -> PassResult:
        """Run the pass on a graph module, which is left as it is."""
        missed, context = MissedRemarks(), pass_context()
        dead = {
            module: _dead_nodes(module, frozenset() if path else context.kept_names, missed)
            for path, module in walk_graphs(graph_module)
        }
        result = _without(graph_module, dead, {})
        # Nodes of subgraphs that are gone count too.
        context.count_rewrites(count_nodes(graph_module) - count_nodes(result))
        context.remarks.extend(missed.lines())
        return PassResult(result, result is not graph_module)


def erase_dead_code(module: fx.GraphModule, protected: frozenset[str]) -> int:
    """Erase what the pass removes from one graph, in place.

    Args:
        module: The graph module, without its subgraphs.
        protected: Names of nodes that stay.

    Returns:
        How many nodes were erased.
    """
    dead = _dead_nodes(module, protected, MissedRemarks())
    _erase(module, dead)
    return len(dead)


def _dead_nodes(module: fx.GraphModule, protected: frozenset[str], missed: MissedRemarks) -> list[fx.Node]:
    """Return the nodes of one graph that can go, in order."""
    live: set[fx.Node] = set()
    for node in module.graph.nodes:
        if node.op in ("placeholder", "output") or node.name in protected or has_effect(module, node):
            _reach(node, live)
            if not node.users and draws_random_numbers(module, node):
                missed.add("they move the random number generator on", node.name)
    unused = [node for node in module.graph.nodes if node not in live and node.meta.get("unbacked_bindings")]
    while unused:
        used = set(_symbols(module, live))
        needed = [node for node in unused if not used.isdisjoint(node.meta["unbacked_bindings"])]
        if not needed:
            break
        for node in needed:
            missed.add("they define symbols that other sizes are written with", node.name)
            _reach(node, live)
        unused = [node for node in unused if node not in live]
    return [node for node in module.graph.nodes if node not in live]


def _reach(node: fx.Node, live: set[fx.Node]) -> None:
    """Mark a node and all that it is made of."""
    waiting = [node]
    while waiting:
        current = waiting.pop()
        if current not in live:
            live.add(current)
            waiting.extend(current.all_input_nodes)


def _symbols(module: fx.GraphModule, live: set[fx.Node]) -> Iterator[sympy.Symbol]:
    """Yield the symbols in the values of live nodes, and in those of the subgraphs that they call."""
    for node in live:
        yield from free_symbols(node.meta.get("val"))
        for subgraph in subgraphs(module, node):
            for _, inner in walk_graphs(subgraph):
                for value in inner.graph.nodes:
                    yield from free_symbols(value.meta.get("val"))


def _without(
    module: fx.GraphModule, dead: dict[fx.GraphModule, list[fx.Node]], made: dict[fx.GraphModule, fx.GraphModule]
) -> fx.GraphModule:
    """Copy a graph without its dead nodes and those of its subgraphs, each subgraph once; gives the same object where there are none."""
    if module in made:
        return made[module]
    gone = set(dead[module])
    changed = {}
    for node in module.graph.find_nodes(op="get_attr"):
        subgraph = subgraph_of(module, node)
        if subgraph is not None and node not in gone and (smaller := _without(subgraph, dead, made)) is not subgraph:
            changed[str(node.target)] = smaller
    made[module] = result = copy_graph_module(module) if gone or changed else module
    copies = dict(zip(module.graph.nodes, list(result.graph.nodes), strict=True))
    _erase(result, [copies[node] for node in dead[module]])
    for target, subgraph in changed.items():
        set_attribute(result, target, subgraph)
    return result


def _erase(module: fx.GraphModule, dead: list[fx.Node]) -> None:
    for node in reversed(dead):
        module.graph.erase_node(node)
    read = {str(node.target) for node in module.graph.find_nodes(op="get_attr")}
    for target in {str(node.target) for node in dead if node.op == "get_attr"} - read:
        delete_attribute(module, target)
