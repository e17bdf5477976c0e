"""A program whose graph passes rewrite, until an ExportedProgram is made of it: once for a pipeline, not once for each pass.

Follows `ExportedProgram._transform_do_not_use` in torch/export/exported_program.py, which refuses added and removed inputs and outputs,
forgets guards, and collects symbols that the graph does not have.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, InputSpec, OutputKind, OutputSpec, TensorArgument

from retraced_server.retrace.call_schema import check_calls
from retraced_server.retrace.constants import (
    LIFTED_KINDS,
    copy_graph_module,
    has_tensor_attributes,
    lift_to_inputs,
    pull_out_of_subgraphs,
)
from retraced_server.retrace.copies import copy_with_subgraphs, result_count
from retraced_server.retrace.errors import ExportPassError
from retraced_server.retrace.held_programs import StateChanges
from retraced_server.retrace.outcome import RetraceOutcome
from retraced_server.retrace.pytree_specs import positional_leaves
from retraced_server.retrace.weights import AddedWeight, WeightChanges, Weights, WeightsUse, unread_names
from retraced_server.torch_compat.graphs import root_of
from retraced_server.torch_compat.programs import SpecViolationError, verify_graph
from retraced_server.torch_compat.shape_env_transaction import ShapeEnvTransaction
from retraced_server.torch_compat.symbolic_shapes import shape_env_of

_MUTATIONS = (OutputKind.BUFFER_MUTATION, OutputKind.PARAMETER_MUTATION)


@dataclass
class EditedInput:
    """An input of the graph as it stands. `spec` is the program's own, or that of a lifted constant; None for one that a pass added."""

    name: str
    spec: InputSpec | None

    @property
    def is_user_input(self) -> bool:
        """Whether the caller of the program gives it."""
        return self.spec is None or self.spec.kind is InputKind.USER_INPUT


class ProgramEdit:
    """A program being rewritten. The program itself is left as it is.

    Attributes:
        program: The program.
        graph_module: The graph as it stands, to be given to the next pass.
        modified: Whether any pass has changed it.
        inputs: The inputs of the graph as it stands.
        outputs: For each output of the graph as it stands the program's own spec; None for one that a pass added.
        constants: Constants, and buffers that are not persistent, that passes made or wrote.
        state: Parameters and persistent buffers that passes made or wrote.
    """

    def __init__(self, program: ExportedProgram) -> None:
        self.program = program
        self.graph_module: fx.GraphModule = program.graph_module
        self.modified = False
        placeholders = [node.name for node in program.graph.find_nodes(op="placeholder")]
        specs = program.graph_signature.input_specs
        self.inputs = [EditedInput(name, spec) for name, spec in zip(placeholders, specs, strict=True)]
        self.outputs: list[OutputSpec | None] = list(program.graph_signature.output_specs)
        # For nodes of the program's root graph whose value a node of another name has now: that name; None if none has.
        self._renamed: dict[str, str | None] = {}
        self.constants: dict[str, torch.Tensor] = {}
        self.state: dict[str, torch.Tensor] = {}
        # Specs of inputs that a pass has added to the signature by itself, until the graph comes that has them.
        self._announced: dict[str, InputSpec] = {}
        # Weights that a pass has added, by the ids of the tensors, until the graph comes that reads them.
        self._added: dict[int, AddedWeight] = {}
        self._removed: set[str] = set()
        self._transaction = ShapeEnvTransaction(shape_env_of(program.graph_module))

    def name_now(self, name: str) -> str | None:
        """Return the name of the node that has the value of a node of the program's root graph now; None if none has."""
        return self._renamed.get(name, name)

    def discard(self) -> None:
        """Return the edit up: the program's shape environment forgets what passes taught it."""
        self._transaction.roll_back()

    def take_state(self, changes: StateChanges) -> None:
        """Take over what a pass has written to the program besides the graph: `apply` follows where it has changed that too."""
        self._announced = changes.inputs
        self.state.update(changes.state)
        self.constants.update(changes.constants)
        self._modify()

    def take_weights(self, changes: WeightChanges) -> None:
        """Take over what a pass has made of weights: `apply` follows where it has changed the graph, then `remove_weights`."""
        self._added = {id(added.tensor): added for added in changes.added}
        if not changes.replaced:
            return
        state, _ = self.weights_now()
        for name, tensor in changes.replaced.items():
            (self.state if name in state else self.constants)[name] = tensor
        self._modify()

    def remove_weights(self, names: Mapping[str, bool]) -> set[str]:
        """Leave weights out that nothing reads, nor writes to.

        Args:
            names: Their names, each with whether it is an error where something does.

        Returns:
            The names that were left out.

        Raises:
            ExportPassError: Something does.
        """
        if not names:
            return set()
        nodes = {node.name: node for node in self.graph_module.graph.find_nodes(op="placeholder")}
        inputs = {entry.spec.target: nodes[entry.name] for entry in self.inputs if entry.spec is not None and entry.spec.target}
        used = {name: f"'{next(iter(node.users)).name}' reads it" for name, node in inputs.items() if node.users}
        used |= dict.fromkeys(self._written(), "the program writes to it")
        for name, is_error in names.items():
            if is_error and name in used:
                raise ExportPassError(f"the pass removed the weight `{name}`, but {used[name]}")
        tensors = self._tensors()
        gone = names.keys() & tensors.keys() - used.keys()
        if not gone:
            return set()
        gone |= {other for name in gone for other in unread_names(name, tensors, used.keys())}
        self._modify()
        self.inputs = [entry for entry in self.inputs if entry.spec is None or entry.spec.target not in gone]
        left = {entry.name for entry in self.inputs}
        module = copy_graph_module(self.graph_module)
        for node in module.graph.find_nodes(op="placeholder"):
            if node.name not in left:
                module.graph.erase_node(node)
                self._renamed = {old: None if now == node.name else now for old, now in self._renamed.items()} | {
                    node.name: None
                }
        self.graph_module = module
        self._removed |= gone
        for name in gone:
            self.state.pop(name, None)
            self.constants.pop(name, None)
        return gone

    def weights(self, use: WeightsUse) -> Weights:
        """Return the accessor of the weights as they stand, for a pass that has declared to read as much of them."""
        tensors = self._tensors()
        nodes = {node.name: node for node in self.graph_module.graph.find_nodes(op="placeholder")}
        targets = ((entry.name, entry.spec.target) for entry in self.inputs if entry.spec is not None)
        inputs = {nodes[name]: target for name, target in targets if target in tensors}
        return Weights(tensors, inputs, self._written(), use)

    def weights_now(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Return the state dictionary and the constants as they stand."""
        left = {entry.spec.target for entry in self.inputs if entry.spec is not None}
        gone = {spec.target for spec in self.program.graph_signature.input_specs} - left | self._removed
        state = {name: value for name, value in {**self.program.state_dict, **self.state}.items() if name not in gone}
        constants = {name: value for name, value in self.program.constants.items() if name not in gone}
        return state, {**constants, **self.constants}

    def _tensors(self) -> dict[str, torch.Tensor]:
        state, constants = self.weights_now()
        return {name: value for name, value in {**state, **constants}.items() if isinstance(value, torch.Tensor)}

    def _written(self) -> frozenset[str]:
        return frozenset(spec.target for spec in self.outputs if spec is not None and spec.kind in _MUTATIONS and spec.target)

    def _modify(self) -> None:
        if not self.modified:
            self.graph_module, self.modified = copy_with_subgraphs(self.graph_module), True

    def apply(self, graph_module: fx.GraphModule, outcome: RetraceOutcome, *, calls_are_checked: bool = True) -> dict[str, str]:
        """Take over a graph that a pass has made, and check it.

        Args:
            graph_module: The new graph.
            outcome: What became of the nodes.
            calls_are_checked: Whether calls are checked against schemas; without it the caller does.

        Returns:
            For each new input that is a lifted constant, by name, the name of the node that read the constant.

        Raises:
            ExportPassError: The graph is not one that a program may have.
            NodeError: A node that the pass made or changed does not call its operator as the schema says.
        """
        specs = {entry.name: entry.spec for entry in self.inputs}
        self.inputs = [
            EditedInput(name, self._announced.get(name) if old is None else specs[old]) for name, old in outcome.placeholders
        ]
        self._announced = {}
        if outcome.outputs is not None:
            self.outputs = [None if at is None else self.outputs[at] for at in outcome.outputs]
        moved = {name: None if now is None else outcome.renamed.get(now, now) for name, now in self._renamed.items()}
        self._renamed = {**outcome.renamed, **moved}
        self.graph_module, self.modified = graph_module, True
        lifted = self._lift_constants()
        self._order_inputs()
        self._check()
        if calls_are_checked:
            check_calls(self.graph_module, outcome.origins.keys() - outcome.copied)
        return lifted

    def _lift_constants(self) -> dict[str, str]:
        if not has_tensor_attributes(self.graph_module):
            return {}
        module = copy_graph_module(pull_out_of_subgraphs(self.graph_module))
        user_inputs = {entry.name for entry in self.inputs if entry.is_user_input}
        kinds = {entry.name: entry.spec.kind for entry in self.inputs if entry.spec is not None}

        def before(kind: InputKind) -> fx.Node:
            """Find the first input of a kind that comes later, or the first node that is none."""
            later = LIFTED_KINDS[LIFTED_KINDS.index(kind) + 1 :]
            found: fx.Node = next(
                node
                for node in module.graph.nodes
                if node.op != "placeholder" or node.name in user_inputs or kinds.get(node.name) in later
            )
            return found

        taken = {*self.program.constants, *self.constants, *self.program.state_dict, *self.state}
        lifted = lift_to_inputs(module, before, taken, self._added)
        self._added = {}
        for one in lifted:
            name, weight = one.placeholder.name, one.weight
            (self.state if weight.is_state else self.constants)[weight.name] = weight.tensor
            self._removed.discard(weight.name)
            spec = InputSpec(weight.kind, TensorArgument(name), weight.name, weight.persistent)
            at = next((i for i, entry in enumerate(self.inputs) if entry.name == one.next_input.name), len(self.inputs))
            self.inputs.insert(at, EditedInput(name, spec))
        self.graph_module = module
        return {one.placeholder.name: one.reader.name for one in lifted}

    def _order_inputs(self) -> None:
        """Move inputs that a pass added behind the last positional argument, where the tree spec of the arguments gets them."""
        added = [entry for entry in self.inputs if entry.spec is None]
        if not added:
            return
        positional = {id(spec) for spec in self._positional_specs()}
        keywords: list[EditedInput] = []
        others: list[EditedInput] = []
        for entry in self.inputs:
            if entry.spec is not None:
                is_keyword = entry.is_user_input and id(entry.spec) not in positional
                (keywords if is_keyword else others).append(entry)
        wanted = others + added + keywords
        if wanted == self.inputs:
            return
        self.inputs = wanted
        module = copy_graph_module(self.graph_module)
        nodes = {node.name: node for node in module.graph.nodes if node.op == "placeholder"}
        cursor = root_of(module.graph)
        for entry in wanted:
            cursor.append(nodes[entry.name])
            cursor = nodes[entry.name]
        self.graph_module = module

    def _positional_specs(self) -> list[InputSpec]:
        user = [spec for spec in self.program.graph_signature.input_specs if spec.kind is InputKind.USER_INPUT]
        in_spec = self.program.call_spec.in_spec
        return user if in_spec is None else user[: positional_leaves(in_spec)]

    def _check(self) -> None:
        try:
            verify_graph(self.program.verifiers, self.graph_module)
        except (SpecViolationError, RuntimeError, AttributeError) as error:
            raise ExportPassError(f"the graph is not valid: {error}") from error
        names = [node.name for node in self.graph_module.graph.nodes if node.op == "placeholder"]
        if names != [entry.name for entry in self.inputs]:
            raise ExportPassError(f"the graph's inputs are {names}, but the pass made {[entry.name for entry in self.inputs]}")


def changed_outputs(old: fx.GraphModule, new: fx.GraphModule) -> ExportPassError:
    """Return the error for a graph whose outputs were edited by hand, so that it cannot be told which is which.

    Raises:
        ExportPassError: The graph has no outputs at all.
    """
    before, after = result_count(old), result_count(new)
    if after is None:
        last = next(reversed(new.graph.nodes), None)
        raise ExportPassError(f"the graph must end with an output node that returns a flat tuple, not with {last}")
    return ExportPassError(
        f"the pass changed the number of outputs from {before} to {after}; only a subclass of ExportPass can, through output()"
    )
