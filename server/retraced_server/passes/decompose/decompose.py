"""Decompositions, by torch's own tables."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

from torch.export import ExportedProgram

from retraced_server.analysis.equivalence import differences, input_changes
from retraced_server.passes.base import ProgramPass, ProgramPassResult
from retraced_server.passes.decompose.attention import has_attention, keeps_strides_remark
from retraced_server.passes.decompose.by_calls import decompose_by_calls
from retraced_server.passes.decompose.by_torch import decompose_by_torch
from retraced_server.passes.decompose.stated_differences import unexplained
from retraced_server.passes.decompose.template import NotLocalError
from retraced_server.passes.registry import Option, register_pass
from retraced_server.pipeline.catalogue import IrLevel
from retraced_server.retrace import ExportPassError, PassError
from retraced_server.torch_compat.decompositions import TableChoice, operators_named, table_names
from retraced_server.torch_compat.shape_env_transaction import ShapeEnvTransaction
from retraced_server.torch_compat.symbolic_shapes import shape_env_of

# What fails on a tensor whose strides are not those that the program was exported with.
_VIEWS = ("aten.view.default", "aten._unsafe_view.default", "aten.as_strided.default", "aten.view.dtype")


@register_pass("decompose")
class Decompose(ProgramPass):
    """Rewrite operators as simpler ones by torch's decomposition tables, and make the program functional.

    What it computes is what `ExportedProgram.run_decompositions` gives (torch/export/exported_program.py): operators that mutate
    become functional ones with the mutation as an output, operators without effect vanish, dead code too. Beyond that, a value that
    a node of the input had keeps that node's name, metadata is that of the node that a new node came from, unbacked symbols keep
    their names, guards stay, and a program with nothing to decompose comes back as it was. Where torch's decomposition of attention
    breaks a later view, since it changes the order of strides, attention is decomposed with its own strides, and a remark says so.
    Modules may be named by keywords or with quotes, and one tensor that is written to may be several buffers; torch fails at these. Joint
    programs, with a loss and gradients as outputs, are decomposed as others are.

    Each call is decomposed by itself, once for calls that are alike, and the rest of the program stays as it is. What needs the program as a
    whole is left to torch, which traces all of it twice: a remark says why. Torch's result differs in a few ways that are meant, such as a copy
    of the new value of an input; `by=check` does both and fails where they differ in any other.

    Tables: `core-aten` leaves operators of the Core ATen set (torch/export/decomp_utils.py); `aten` rewrites only operators that are
    composite in ATen, such as `linear`; `none` rewrites none and only makes the program functional. A plugin adds its own with
    `register_decomposition_table`.
    """

    def __init__(
        self,
        table: Annotated[str, Option("Which operators to rewrite.", choices=table_names)] = "core-aten",
        preserve: Annotated[str, Option("Operators to leave as they are, with spaces between: `aten.linear.default`.")] = "",
        only: Annotated[str, Option("The operators of the table to rewrite, and no others, with spaces between.")] = "",
        by: Annotated[
            Literal["local", "torch", "check"],
            Option("Decompose each call by itself where that can be done, trace the whole program, or do both and compare."),
        ] = "local",
    ) -> None:
        if table not in table_names():
            raise ValueError(f"there is no decomposition table `{table}`; there are {', '.join(table_names())}")
        for names in (preserve, only):
            operators_named(names)
        self._choice = TableChoice(table, preserve, only)
        self._by = by
        rewrites_all = self._choice == TableChoice("core-aten")
        self.gives = IrLevel.CORE_ATEN if rewrites_all else IrLevel.FUNCTIONAL

    def run(self, program: ExportedProgram) -> ProgramPassResult:
        """Run the pass.

        Raises:
            ExportPassError: With `by=check`, the two ways do not give the same.
        """
        if self._by == "torch":
            return self._by_torch(program)
        try:
            result = self._by_calls(program)
        except NotLocalError as error:
            reason = str(error)
        # What a call raises by itself, such as an operator whose decomposition asks for more than its arguments.
        except (PassError, ExportPassError) as error:
            cause = error.__cause__ if isinstance(error.__cause__, NotLocalError) else error
            reason = str(cause).partition("\n")[0]
        else:
            if self._by == "check":
                self._check(program, result)
            return result
        result = self._by_torch(program)
        return replace(result, remarks=(f"decomposed by torch: {reason}", *result.remarks)) if result.modified else result

    def _by_torch(self, program: ExportedProgram) -> ProgramPassResult:
        return decompose_by_torch(program, self._choice)

    def _by_calls(self, program: ExportedProgram) -> ProgramPassResult:
        try:
            return decompose_by_calls(program, self._choice)
        except PassError as error:
            is_of_strides = error.target in _VIEWS and has_attention(program.graph_module)
            if self._choice.name != "core-aten" or not is_of_strides:
                raise
            result = decompose_by_calls(program, replace(self._choice, keeps_strides=True))
            return replace(result, remarks=(keeps_strides_remark(error), *result.remarks))

    def _check(self, program: ExportedProgram, result: ProgramPassResult) -> None:
        transaction = ShapeEnvTransaction(shape_env_of(program.graph_module))
        try:
            theirs = self._by_torch(program).program
        finally:
            transaction.roll_back()
        found = unexplained([*input_changes(program, result.program), *differences(result.program, theirs)])
        if found:
            more = f", and {len(found) - 1} more" if len(found) > 1 else ""
            raise ExportPassError(f"torch decomposes the program otherwise than call by call: {found[0]}{more}")
