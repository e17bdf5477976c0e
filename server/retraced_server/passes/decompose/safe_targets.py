"""Names of parameters, buffers and constants that torch can write into the source that it generates of a program."""

from __future__ import annotations

import dataclasses
import keyword
from collections.abc import Callable
from itertools import count
from typing import Any

from torch.export import ExportedProgram
from torch.export.graph_signature import ExportGraphSignature, InputKind, OutputKind

from retraced_server.torch_compat.programs import set_parts

_LIFTED = (
    *(InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR, InputKind.CUSTOM_OBJ),
    *(OutputKind.PARAMETER_MUTATION, OutputKind.BUFFER_MUTATION, OutputKind.GRADIENT_TO_PARAMETER),
)


class SafeTargets:
    """Other names for what is lifted in a program, where torch cannot write them as attributes in the source that it generates.

    It writes an identifier as it is, also where that is a keyword (`self.class.weight`, a SyntaxError), and puts anything else between quotes,
    whatever it has in it.

    Args:
        program: The program.
    """

    def __init__(self, program: ExportedProgram) -> None:
        parts = {part: None for target in (*program.state_dict, *program.constants) for part in target.split(".")}
        fresh = (name for k in count() if (name := f"renamed_{k}") not in parts)
        self._safe = {part: next(fresh) for part in parts if not _is_safe(part)}
        self._given = {safe: part for part, safe in self._safe.items()}

    def apply(self, program: ExportedProgram) -> None:
        """Give what is lifted in a copy of the program the other names, in place."""
        _rename(program, lambda target: _replaced(target, self._safe))

    def undo(self, program: ExportedProgram) -> None:
        """Give what is lifted in a program that was made of such a copy the program's own names again, in place."""
        _rename(program, lambda target: _replaced(target, self._given))


def _is_safe(part: str) -> bool:
    return part.isdecimal() or (part.isidentifier() and not keyword.iskeyword(part))


def _replaced(target: str, parts: dict[str, str]) -> str:
    return ".".join(parts.get(part, part) for part in target.split("."))


def _rename(program: ExportedProgram, rename: Callable[[str], str]) -> None:
    def renamed(spec: Any) -> Any:
        lifted = spec.kind in _LIFTED and spec.target is not None
        return dataclasses.replace(spec, target=rename(spec.target)) if lifted else spec

    signature = program.graph_signature
    set_parts(
        program,
        graph_signature=ExportGraphSignature(
            [renamed(spec) for spec in signature.input_specs], [renamed(spec) for spec in signature.output_specs]
        ),
        state_dict={rename(name): value for name, value in program.state_dict.items()},
        constants={rename(name): value for name, value in program.constants.items()},
    )
