"""Programs that passes are made with, as many of ExecuTorch's are: what a pass writes to one is part of its result, and is taken back.

A pass that is given a copy of a graph finds the copy in the program that it holds, too. Weights, constants and inputs that it adds to the
program itself go into the program that is made in the end.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputSpec

from retraced_server.torch_compat.programs import set_parts


@contextmanager
def lent(instance: object, module: fx.GraphModule, copy: fx.GraphModule) -> Iterator[None]:
    """Give the programs that an object holds as attributes, and whose graph module is `module`, a copy of that for a while."""
    held = [value for value in vars(instance).values() if isinstance(value, ExportedProgram) and value.graph_module is module]
    for program in held:
        set_parts(program, graph_module=copy)
    try:
        yield
    finally:
        for program in held:
            set_parts(program, graph_module=module)


@dataclass(frozen=True)
class StateChanges:
    """What a pass has written to a program besides the graph: inputs that it added to the signature, by name, and tensors by their target."""

    inputs: dict[str, InputSpec]
    state: dict[str, torch.Tensor]
    # Objects of TorchScript classes too.
    constants: dict[str, Any]

    def __bool__(self) -> bool:
        return bool(self.inputs or self.state or self.constants)


class ProgramState:
    """The state dictionary, constants and signature of a program as they are now.

    Args:
        program: The program.
    """

    def __init__(self, program: ExportedProgram) -> None:
        self._program = program
        self._state, self._constants = dict(program.state_dict), dict(program.constants)
        self._inputs = list(program.graph_signature.input_specs)
        self._outputs = list(program.graph_signature.output_specs)

    def put_back(self) -> StateChanges:
        """Make the program what it was, and return what was written to it."""
        signature = self._program.graph_signature
        known = {spec.arg.name for spec in self._inputs}
        changes = StateChanges(
            {spec.arg.name: spec for spec in signature.input_specs if spec.arg.name not in known},
            _written(self._state, self._program.state_dict),
            _written(self._constants, self._program.constants),
        )
        if signature.input_specs != self._inputs or signature.output_specs != self._outputs:
            signature.input_specs[:], signature.output_specs[:] = self._inputs, self._outputs
        for now, before in ((self._program.state_dict, self._state), (self._program.constants, self._constants)):
            if now.keys() != before.keys() or _written(before, now):
                now.clear()
                now.update(before)
        return changes


def _written(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in now.items() if before.get(name) is not value}
