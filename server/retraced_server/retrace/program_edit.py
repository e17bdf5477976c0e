"""A program whose graph passes rewrite, until an ExportedProgram is made of it: once for a pipeline, not once for each pass.

Follows `ExportedProgram._transform_do_not_use` in torch/export/exported_program.py, which refuses added and removed inputs and outputs,
forgets guards, and collects symbols that the graph does not have.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, InputSpec, OutputSpec, TensorArgument

from retraced_server.retrace.call_schema import check_calls
from retraced_server.retrace.constants import copy_graph_module, has_tensor_attributes, lift_to_inputs, pull_out_of_subgraphs
from retraced_server.retrace.copies import copy_with_subgraphs
from retraced_server.retrace.errors import ExportPassError
from retraced_server.retrace.held_programs import StateChanges
from retraced_server.retrace.outcome import RetraceOutcome
from retraced_server.retrace.pytree_specs import positional_leaves
from retraced_server.torch_compat.graphs import root_of
from retraced_server.torch_compat.programs import SpecViolationError, verify_graph
from retraced_server.torch_compat.shape_env_transaction import ShapeEnvTransaction
from retraced_server.torch_compat.symbolic_shapes import shape_env_of


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
        constants: Constants that passes made or wrote.
        state: Parameters and buffers that passes wrote to a program that they hold.
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
        self._transaction = ShapeEnvTransaction(shape_env_of(program.graph_module))

    def name_now(self, name: str) -> str | None:
        """The name of the node that has the value of a node of the program's root graph now; None if none has."""
        return self._renamed.get(name, name)

    def discard(self) -> None:
        """Gives the edit up: the program's shape environment forgets what passes taught it."""
        self._transaction.roll_back()

    def take_state(self, changes: StateChanges) -> None:
        """Takes over what a pass has written to the program besides the graph: `apply` follows where it has changed that too."""
        self._announced = changes.inputs
        self.state.update(changes.state)
        self.constants.update(changes.constants)
        if not self.modified:
            self.graph_module, self.modified = copy_with_subgraphs(self.graph_module), True

    def apply(self, graph_module: fx.GraphModule, outcome: RetraceOutcome) -> dict[str, str]:
        """Takes over a graph that a pass has made, and checks it.

        Args:
            graph_module: The new graph.
            outcome: What became of the nodes.

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
        check_calls(self.graph_module, outcome.origins.keys() - outcome.copied)
        return lifted

    def _lift_constants(self) -> dict[str, str]:
        if not has_tensor_attributes(self.graph_module):
            return {}
        module = copy_graph_module(pull_out_of_subgraphs(self.graph_module))
        user_inputs = {entry.name for entry in self.inputs if entry.is_user_input}
        first = next(node for node in module.graph.nodes if node.op != "placeholder" or node.name in user_inputs)
        taken = {*self.program.constants, *self.constants, *self.program.state_dict, *self.state}
        lifted = lift_to_inputs(module, first, taken)
        at = next((i for i, entry in enumerate(self.inputs) if entry.is_user_input), len(self.inputs))
        for placeholder, name, tensor, _ in reversed(lifted):
            self.constants[name] = tensor.detach()
            spec = InputSpec(InputKind.CONSTANT_TENSOR, TensorArgument(placeholder.name), name)
            self.inputs.insert(at, EditedInput(placeholder.name, spec))
        self.graph_module = module
        return {placeholder.name: reader.name for placeholder, _, _, reader in lifted}

    def _order_inputs(self) -> None:
        """Moves inputs that a pass added behind the last positional argument, where the tree spec of the arguments gets them."""
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
    return ExportPassError(
        f"the pass changed the number of outputs from {_result_count(old)} to {_result_count(new)}; "
        "only a subclass of ExportPass can, through output()"
    )


def _result_count(module: fx.GraphModule) -> int:
    last = next(reversed(module.graph.nodes), None)
    results = last.args[0] if last is not None and last.op == "output" and last.args else None
    if not isinstance(results, (tuple, list)):
        raise ExportPassError(f"the graph must end with an output node that returns a flat tuple, not with {last}")
    return len(results)
