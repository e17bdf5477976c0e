"""Build the program that an edit stands for: signature, symbols, module call graph, guards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import sympy
import torch
from torch import fx
from torch.export import ExportedProgram, ModuleCallEntry, ModuleCallSignature
from torch.export.graph_signature import (
    ConstantArgument,
    CustomObjArgument,
    ExportGraphSignature,
    InputKind,
    InputSpec,
    OutputKind,
    OutputSpec,
    SymBoolArgument,
    SymFloatArgument,
    SymIntArgument,
    TensorArgument,
    TokenArgument,
)

from retraced_server.retrace.call_schema import check_calls
from retraced_server.retrace.check_regions import check_regions
from retraced_server.retrace.errors import ExportPassError
from retraced_server.retrace.program_edit import EditedInput, ProgramEdit
from retraced_server.retrace.pytree_specs import append_arguments, append_results, drop_leaves, dropped_parameters
from retraced_server.retrace.values import free_symbols, same_metadata
from retraced_server.torch_compat.programs import SpecViolationError, assemble_program, export_graph_module, guards_code
from retraced_server.torch_compat.symbolic_shapes import ranges_of

# One of the *Argument classes of torch.export.graph_signature.
_ArgumentSpec = Any


def build_program(edit: ProgramEdit) -> tuple[ExportedProgram, list[str]]:
    """Make the program that an edit stands for.

    Returns:
        The program, validated, and what had to be given up. It is the edit's own program, the object, if no pass changed it.

    Raises:
        ExportPassError: The program is not valid, or its arguments cannot be changed in this way.
    """
    program = edit.program
    if not edit.modified:
        return program, []
    builder = _Builder(edit)
    module = edit.graph_module
    signature = ExportGraphSignature(builder.input_specs(), builder.output_specs())
    state_dict, constants = edit.weights_now()
    keeps_guards = builder.arguments_are_same()
    if guards_code(program) and not keeps_guards:
        builder.remarks.append("the guards on arguments were dropped, since arguments were added or removed")
    try:
        module_calls = builder.module_call_graph()
        built = assemble_program(
            export_graph_module(module, signature, module_calls),
            signature,
            state_dict=state_dict,
            ranges=builder.range_constraints(),
            module_calls=module_calls,
            example_inputs=program.example_inputs if builder.user_inputs_are_same() else None,
            constants=constants,
            verifiers=program.verifiers,
            guards=guards_code(program) if keeps_guards else (),
            graph_is_verified=True,
        )
    except (SpecViolationError, AssertionError, ValueError, RuntimeError) as error:
        raise ExportPassError(f"the program is not valid: {error}") from error
    built.graph_module.meta.update({**program.graph_module.meta, **module.meta})
    return built, builder.remarks


def check_signature(edit: ProgramEdit) -> None:
    """Check what `build_program` would make of inputs and outputs: after each pass, so that the one at fault is known.

    Raises:
        ExportPassError: No program has such inputs or outputs.
    """
    builder = _Builder(edit)
    # The specs of the others are the program's own.
    for entry in edit.inputs:
        if entry.spec is None:
            builder.input_spec(entry)
    builder.output_specs()
    builder.module_call_graph()


def check_program(before: ExportedProgram, after: ExportedProgram) -> None:
    """Check a program that a pass has made by itself, of which nobody else says what is new in it.

    Args:
        before: The program that the pass was given.
        after: The program that it made.

    Raises:
        ExportPassError: A verifier of the program refuses it, or a region of `before` is not whole any more.
        NodeError: A node does not call its operator as the schema says.
    """
    try:
        after.validate()
    except (SpecViolationError, AssertionError, AttributeError, ValueError, RuntimeError) as error:
        raise ExportPassError(f"the program is not valid: {error}") from error
    check_calls(after.graph_module)
    check_regions(before.graph_module, after.graph_module)


class _Builder:
    """The parts of one program."""

    def __init__(self, edit: ProgramEdit) -> None:
        self._edit = edit
        self._program = edit.program
        self._nodes = {node.name: node for node in edit.graph_module.graph.nodes}
        self._old_users = [spec for spec in self._program.graph_signature.input_specs if spec.kind is InputKind.USER_INPUT]
        self._users = [entry for entry in edit.inputs if entry.is_user_input]
        self._kept = [entry.spec for entry in self._users if entry.spec is not None]
        self.remarks: list[str] = []

    # -- signature ---------------------------------------------------------------------------------------------------------------

    def input_specs(self) -> list[InputSpec]:
        return list(map(self.input_spec, self._edit.inputs))

    def input_spec(self, entry: EditedInput) -> InputSpec:
        if entry.spec is None:
            return InputSpec(InputKind.USER_INPUT, _argument(self._nodes[entry.name]), None)
        return replace(entry.spec, arg=replace(entry.spec.arg, name=entry.name))

    def output_specs(self) -> list[OutputSpec]:
        output = next(reversed(self._edit.graph_module.graph.nodes))
        results = output.args[0]
        if not isinstance(results, (tuple, list)) or len(results) != len(self._edit.outputs):
            raise ExportPassError(f"the graph must return a flat tuple of {len(self._edit.outputs)} values, not {results}")
        specs = []
        for result, spec in zip(results, self._edit.outputs, strict=True):
            argument = _argument(result)
            if spec is None:
                specs.append(OutputSpec(OutputKind.USER_OUTPUT, argument, None))
                continue
            if isinstance(spec.arg, TokenArgument) or (
                type(argument) is type(spec.arg) and not isinstance(argument, ConstantArgument)
            ):
                argument = replace(spec.arg, name=argument.name)
            target = spec.target
            if spec.kind in (OutputKind.USER_INPUT_MUTATION, OutputKind.GRADIENT_TO_USER_INPUT) and target is not None:
                target = self._edit.name_now(target) or target
            specs.append(OutputSpec(spec.kind, argument, target))
        return specs

    # -- arguments ---------------------------------------------------------------------------------------------------------------

    def arguments_are_same(self) -> bool:
        """Whether the caller gives as many arguments, in the same order."""
        return len(self._users) == len(self._old_users) and all(
            entry.spec is spec for entry, spec in zip(self._users, self._old_users, strict=True)
        )

    def user_inputs_are_same(self) -> bool:
        """Whether recorded sample inputs still fit: same arguments by name, dtype, device and size."""
        if not self.arguments_are_same():
            return False
        old = {node.name: node for node in self._program.graph.nodes if node.op == "placeholder"}
        return all(
            entry.name == spec.arg.name
            and same_metadata(self._nodes[entry.name].meta.get("val"), old[spec.arg.name].meta.get("val"), requires_grad=False)
            for entry, spec in zip(self._users, self._old_users, strict=True)
        )

    # -- module call graph -------------------------------------------------------------------------------------------------------

    def module_call_graph(self) -> list[ModuleCallEntry]:
        return [
            replace(entry, signature=None if entry.signature is None else self._call_signature(entry.fqn, entry.signature))
            for entry in self._program.module_call_graph
        ]

    def _call_signature(self, fqn: str, signature: ModuleCallSignature) -> ModuleCallSignature | None:
        inputs, outputs = [self._named(a) for a in signature.inputs], [self._named(a) for a in signature.outputs]
        if any(argument is None for argument in (*inputs, *outputs)):
            self.remarks.append(f"the preserved call signature of module '{fqn}' was dropped, since a value of it is gone")
            return None
        changed = replace(signature, inputs=inputs, outputs=outputs)
        return self._root_signature(changed) if fqn == "" else changed

    def _named(self, argument: _ArgumentSpec) -> _ArgumentSpec:
        if isinstance(argument, ConstantArgument) or not argument.name:
            return argument
        name = self._edit.name_now(argument.name)
        return None if name is None or name not in self._nodes else replace(argument, name=name)

    def _root_signature(self, signature: ModuleCallSignature) -> ModuleCallSignature:
        in_spec, out_spec, names = signature.in_spec, signature.out_spec, signature.forward_arg_names
        if in_spec is not None and not self.arguments_are_same():
            dropped = _missing(self._old_users, self._kept)
            added = [entry.name for entry in self._users if entry.spec is None]
            left = drop_leaves(in_spec, dropped, "argument")
            if names is not None:
                names = dropped_parameters(in_spec, dropped, names)
                positional = left.child(0).num_children
                names = [*names[:positional], *added, *names[positional:]]
            in_spec = append_arguments(left, len(added))
        old = [spec for spec in self._program.graph_signature.output_specs if spec.kind is OutputKind.USER_OUTPUT]
        gone = _missing(old, self._edit.outputs)
        new = sum(1 for spec in self._edit.outputs if spec is None)
        if out_spec is not None and (gone or new):
            out_spec = drop_leaves(out_spec, gone, "result")
            out_spec = append_results(out_spec, new) if new else out_spec
        return replace(signature, in_spec=in_spec, out_spec=out_spec, forward_arg_names=names)

    # -- symbols -----------------------------------------------------------------------------------------------------------------

    def range_constraints(self) -> dict[sympy.Symbol, Any]:
        """Return the program's own, but for symbols that its graphs no longer have; and those of symbols that are in new values."""
        old_values, new_values = _values(self._program.graph_module), _values(self._edit.graph_module)
        ranges = dict(self._program.range_constraints)
        lost = set(ranges)
        for value in new_values.values():
            if not lost:
                break
            lost -= free_symbols(value).keys()
        for value in old_values.values():
            if not lost:
                break
            gone = lost & free_symbols(value).keys()
            lost -= gone
            for symbol in gone:
                del ranges[symbol]
        for key, value in new_values.items():
            if key not in old_values:
                for symbol, env in free_symbols(value).items():
                    if symbol not in ranges and symbol in ranges_of(env):
                        ranges[symbol] = ranges_of(env)[symbol]
        return ranges


def _missing(specs: Sequence[object], kept: Sequence[object]) -> set[int]:
    """Return the positions of the specs that, as objects, are not among those kept: equal ones may stand for different values."""
    left = {id(spec) for spec in kept}
    return {at for at, spec in enumerate(specs) if id(spec) not in left}


def _values(module: fx.GraphModule) -> dict[int, Any]:
    """Return the recorded values, subgraphs of higher-order operators included, by identity."""
    graphs = (child.graph for child in module.modules() if isinstance(child, fx.GraphModule))
    return {id(value): value for graph in graphs for node in graph.nodes if (value := node.meta.get("val")) is not None}


def _argument(value: Any) -> _ArgumentSpec:
    """Return the signature's argument for a node's value, or for a constant."""
    if not isinstance(value, fx.Node):
        return ConstantArgument(name="", value=value)
    recorded = value.meta.get("val")
    if isinstance(recorded, torch.Tensor):
        return TensorArgument(value.name)
    if isinstance(recorded, torch.SymInt) or type(recorded) is int:
        return SymIntArgument(value.name)
    if isinstance(recorded, torch.SymFloat) or type(recorded) is float:
        return SymFloatArgument(value.name)
    if isinstance(recorded, torch.SymBool) or type(recorded) is bool:
        return SymBoolArgument(value.name)
    if isinstance(recorded, CustomObjArgument):
        return replace(recorded, name=value.name)
    raise ExportPassError(f"'{value.name}' cannot be an input or output of a program: its value is {type(recorded).__name__}")
