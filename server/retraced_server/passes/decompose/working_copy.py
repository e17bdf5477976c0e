"""A copy of a program that torch's own transformations can be let loose on, each node tagged with the node it is a copy of."""

from __future__ import annotations

import copy
import dataclasses
import operator
from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch import fx
from torch.export import ExportedProgram, ModuleCallEntry
from torch.export.graph_signature import ConstantArgument, ExportGraphSignature, OutputKind, OutputSpec

from retraced_server.analysis.attributes import find_attribute, set_attribute
from retraced_server.analysis.graphs import child_path, node_key, subgraph_of
from retraced_server.torch_compat.fake_tensors import can_record_gradients
from retraced_server.torch_compat.programs import set_parts

# Of the metadata that torch's tracer copies from the node being run to the nodes it makes, the one key that neither export
# nor AOTAutograd reads.
TAG = "partitioner_tag"

SETS_GRADIENTS: Final = torch.ops.higher_order.wrap_with_set_grad_enabled

# The stand-in of a node: a node, or the tuple of results of an inlined subgraph.
_Env = dict[fx.Node, Any]


def working_copy(program: ExportedProgram) -> ExportedProgram:
    """Copy a program's graphs and signature; weights, constants and values are shared.

    - Every node has, under `TAG`, the key of the node that it is a copy of.
    - Nodes have names that fx itself would give: torch loses track of inputs called `input` or `id` when it copies a graph.
    - The subgraphs of `wrap_with_set_grad_enabled(False, ...)` are inlined, as AOTAutograd would do with the loss of all metadata.
    - Weights of devices that this machine does not have require no gradients.
    - Guards, sample inputs and preserved module signatures are left out: guards are code, which is not to be compiled, and
      torch's own update of signatures refuses programs that it need not.
    """
    graph_module, names = _copy_graph_module(program.graph_module, "")
    result = copy.copy(program)
    set_parts(
        result,
        graph_module=graph_module,
        graph_signature=_renamed(program.graph_signature, names),
        state_dict=_without_gradients(program.state_dict),
        constants=dict(program.constants),
        range_constraints=dict(program.range_constraints),
        guards_code=[],
        example_inputs=None,
        module_call_graph=[ModuleCallEntry(entry.fqn, None) if entry.fqn else entry for entry in program.module_call_graph],
    )
    return result


def _without_gradients(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Replace weights that require gradients which torch cannot record."""
    made: dict[int, torch.Tensor] = {}
    for weight in weights.values():
        # One for each object: weights that are tied stay so.
        made[id(weight)] = (
            weight
            if can_record_gradients(weight) or not weight.requires_grad
            else torch.nn.Parameter(weight.detach(), requires_grad=False)
        )
    return {name: made[id(weight)] for name, weight in weights.items()}


# Targets and arguments are whatever a graph has.
def runs_without_gradients(target: Any, args: Sequence[Any]) -> bool:
    """Whether a call runs its subgraph without gradients, as all of a program runs while it is decomposed."""
    return target is SETS_GRADIENTS and args[0] is False


def inlined_subgraph(graph_module: torch.nn.Module, node: fx.Node) -> fx.GraphModule | None:
    """Return the subgraph of a node that `working_copy` inlines, or None."""
    if not runs_without_gradients(node.target, node.args) or any(user.target is not operator.getitem for user in node.users):
        return None
    subgraph = subgraph_of(graph_module, node.args[1])
    return subgraph if subgraph is not None and isinstance(subgraph.graph.output_node().args[0], (tuple, list)) else None


def _copy_graph_module(source: fx.GraphModule, path: str) -> tuple[fx.GraphModule, dict[str, str]]:
    """Copy a graph module with its subgraphs; gives the new names of its nodes too."""
    copier = _Copier()
    env: _Env = {}
    copier.copy_nodes(source, path, "", env)
    output = source.graph.output_node()
    copied = copier.graph.output(fx.map_arg(output.args[0], env.__getitem__))
    copied.meta = _tagged(output, path)
    result = fx.GraphModule(copier.root, copier.graph)
    result.meta = dict(source.meta)
    return result, {old.name: new.name for old, new in env.items() if isinstance(new, fx.Node)}


class _Copier:
    """Makes one graph of a graph and the subgraphs that are inlined into it."""

    def __init__(self) -> None:
        self.graph = fx.Graph()
        self.root = torch.nn.Module()

    def copy_nodes(self, source: fx.GraphModule, path: str, prefix: str, env: _Env) -> None:
        """Copy all nodes but the output, and placeholders that have a stand-in; attributes go under `prefix`."""
        for node in source.graph.nodes:
            if node.op == "output" or node in env:
                continue
            inlined = inlined_subgraph(source, node)
            if inlined is not None:
                env[node] = self._inline(node, inlined, path, prefix, env)
            elif (results := _inlined_results(node, env)) is not None:
                env[node] = results[node.args[1]]
            elif node.op != "get_attr" or not node.users or any(inlined_subgraph(source, user) is None for user in node.users):
                env[node] = self._copy_node(source, node, path, prefix, env)

    def _inline(self, node: fx.Node, subgraph: fx.GraphModule, path: str, prefix: str, env: _Env) -> tuple[Any, ...]:
        operands = (fx.map_arg(argument, env.__getitem__) for argument in node.args[2:])
        inner: _Env = dict(zip(subgraph.graph.find_nodes(op="placeholder"), operands, strict=True))
        assert isinstance(node.args[1], fx.Node)
        target = node.args[1].target
        self.copy_nodes(subgraph, child_path(path, target), f"{prefix}{target}.", inner)
        results = fx.map_arg(subgraph.graph.output_node().args[0], inner.__getitem__)
        assert isinstance(results, (tuple, list))
        return tuple(results)

    def _copy_node(self, source: fx.GraphModule, node: fx.Node, path: str, prefix: str, env: _Env) -> fx.Node:
        copied = self.graph.node_copy(node, env.__getitem__)
        copied.meta = _tagged(node, path)
        if node.op == "get_attr":
            copied.target = f"{prefix}{node.target}"
            if find_attribute(self.root, copied.target) is None:
                subgraph = subgraph_of(source, node)
                value = find_attribute(source, node.target) if subgraph is None else None
                made = _copy_graph_module(subgraph, child_path(path, node.target))[0] if subgraph is not None else value
                set_attribute(self.root, copied.target, made)
        return copied


# The results of a subgraph are any values.
def _inlined_results(node: fx.Node, env: _Env) -> Any:
    """Return the results of the subgraph that a node takes an item of, if that is inlined."""
    if node.target is not operator.getitem or not isinstance(node.args[0], fx.Node):
        return None
    results = env[node.args[0]]
    return results if isinstance(results, tuple) else None


def _tagged(node: fx.Node, path: str) -> dict[str, Any]:
    # Origins of an earlier tracing would be taken for origins in this program.
    return {key: value for key, value in node.meta.items() if key != "from_node"} | {TAG: node_key(path, node.name)}


def _renamed(signature: ExportGraphSignature, names: dict[str, str]) -> ExportGraphSignature:
    # A specialised input or output is a constant: its name is not that of a node.
    def rename(argument: Any) -> Any:
        return argument if isinstance(argument, ConstantArgument) else dataclasses.replace(argument, name=names[argument.name])

    def target(spec: OutputSpec) -> str | None:
        return names[spec.target] if spec.kind is OutputKind.USER_INPUT_MUTATION and spec.target else spec.target

    return ExportGraphSignature(
        [dataclasses.replace(spec, arg=rename(spec.arg)) for spec in signature.input_specs],
        [OutputSpec(spec.kind, rename(spec.arg), target(spec)) for spec in signature.output_specs],
    )
