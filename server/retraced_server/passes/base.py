"""What a pass is: a callable on graph modules, or a `ProgramPass` on whole programs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch.export import ExportedProgram
from torch.export.graph_signature import OutputKind
from torch.fx import GraphModule

from retraced_server.pipeline.catalogue import IrLevel
from retraced_server.retrace import PassResult

GraphPass = Callable[[GraphModule], PassResult | None]
"""A pass on graph modules: an `ExportPass`, a `PassBase` of torch's, or any callable of this type.

An `ExportPass` leaves its input as it was. Any other is given a copy, which it may change and give back, or give back None for;
whether it changed anything is seen by comparing. What else it is told, and what it has to tell, goes by `pass_context()` of
`retraced_server.retrace`; nothing is set on the object, nor read from it.
"""

MUTATIONS = frozenset({OutputKind.BUFFER_MUTATION, OutputKind.PARAMETER_MUTATION, OutputKind.USER_INPUT_MUTATION})
"""The kinds of outputs that are what something becomes that the program writes to."""


@dataclass(frozen=True)
class ProgramPassResult:
    """What a `ProgramPass` gives back.

    Attributes:
        program: The program after the pass: the input's own object where nothing changed.
        modified: Whether anything changed.
        rewrites: How many nodes of the input were rewritten or removed.
        remarks: What the pass wants to say, one sentence each.
        origins: For each node of `program` that is not a node of the input as it was, the nodes of the input that it came from. A key is
            a node's name, or `true_graph_0.body_graph_0:name` in the subgraph of a higher-order operator. Empty where nothing changed.
        new_guards: Guards on symbolic shapes that narrow what the program accepts, each with the node at which it was added.
    """

    program: ExportedProgram
    modified: bool
    rewrites: int = 0
    remarks: tuple[str, ...] = ()
    origins: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    new_guards: tuple[str, ...] = ()


class ProgramPass(ABC):
    """A pass that needs the whole program: its signature, its state or its range constraints.

    It leaves its input as it was, the shape environment too; when it changes nothing it gives the input's own object.

    Attributes:
        gives: The level of the intermediate representation that its results are of, whatever it is given; None where that depends on the input.
    """

    gives: IrLevel | None = None

    @abstractmethod
    def run(self, program: ExportedProgram) -> ProgramPassResult:
        """Run the pass on a program."""


def preserved_modules(program: ExportedProgram) -> frozenset[str]:
    """Return the names of the modules whose call signature is preserved; each call of a module has an entry `name`, `name@1`, ..."""
    return frozenset(
        entry.fqn.partition("@")[0] for entry in program.module_call_graph if entry.fqn and entry.signature is not None
    )


def kept_names(program: ExportedProgram) -> frozenset[str]:
    """Return the nodes of the root graph whose values must stay values of their own.

    They are the inputs and outputs of modules whose call signature is preserved, and the outputs that are written back to
    buffers, parameters and inputs: a user output merged with one of these would change when the program runs again.
    """
    entries = [entry.signature for entry in program.module_call_graph if entry.fqn and entry.signature is not None]
    called = {argument.name for signature in entries for argument in (*signature.inputs, *signature.outputs)}
    mutations = {spec.arg.name for spec in program.graph_signature.output_specs if spec.kind in MUTATIONS}
    return frozenset(called | mutations)
