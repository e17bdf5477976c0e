"""What is said of a program as a whole: signature, symbols, versions, counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from retraced._text import ShortRepr, counted


class InputKind(StrEnum):
    """What an input of the graph stands for, as in `torch.export.graph_signature.InputKind`."""

    USER_INPUT = "user_input"
    PARAMETER = "parameter"
    BUFFER = "buffer"
    CONSTANT_TENSOR = "constant_tensor"
    CUSTOM_OBJ = "custom_obj"
    TOKEN = "token"
    UNKNOWN = "unknown"


class OutputKind(StrEnum):
    """What an output of the graph stands for, as in `torch.export.graph_signature.OutputKind`."""

    USER_OUTPUT = "user_output"
    LOSS_OUTPUT = "loss_output"
    BUFFER_MUTATION = "buffer_mutation"
    PARAMETER_MUTATION = "parameter_mutation"
    GRADIENT_TO_PARAMETER = "gradient_to_parameter"
    GRADIENT_TO_USER_INPUT = "gradient_to_user_input"
    USER_INPUT_MUTATION = "user_input_mutation"
    TOKEN = "token"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class InputSpec:
    """One input of the graph.

    Attributes:
        kind: What it stands for.
        name: The placeholder's node name; empty where the input is a constant.
        target: For parameters, buffers, constants and objects: the fully qualified name in the module; else empty.
        persistent: For buffers: whether it is in the state dict; else None.
        constant: For an input that is a constant of the signature: its value as Python writes it; else None.
    """

    kind: InputKind
    name: str
    target: str = ""
    persistent: bool | None = None
    constant: str | None = None


@dataclass(frozen=True)
class OutputSpec:
    """One output of the graph.

    Attributes:
        kind: What it stands for.
        name: The node whose value it is; empty where the output is a constant.
        target: For mutations and gradients: the fully qualified name, or the user input's node name; else empty.
        constant: For an output that is a constant: its value as Python writes it; else None.
    """

    kind: OutputKind
    name: str
    target: str = ""
    constant: str | None = None


@dataclass(frozen=True)
class Symbol:
    """A symbol of the program's shapes.

    Attributes:
        name: For example `s77` (from an input's size) or `u0` (from data).
        lower: The smallest value it can have, as text; None: no bound.
        upper: The largest value it can have, as text; None: no bound.
        hint: The value it had at export, where one is known.
    """

    name: str
    lower: str | None = None
    upper: str | None = None
    hint: int | None = None


@dataclass(frozen=True, repr=False)
class ProgramInfo(ShortRepr):
    """A program as a whole.

    Attributes:
        inputs: Its inputs, in the order of the placeholders.
        outputs: Its outputs, in the order of the output node's arguments.
        symbols: The symbols of its shapes, with their ranges.
        schema_version: Major and minor of the schema its archive is written in; None for one that was not written.
        torch_version: The torch that wrote its archive; empty where the archive does not say.
        node_count: Nodes, subgraphs of higher-order operators included.
        graph_count: Graphs: one, and one more for each subgraph of a higher-order operator.
        dialect: The dialect of the program's verifiers, for example `ATEN` or `TRAINING`.
        guards: Guards of the program, as Python expressions over its inputs. They are text; nothing evaluates them.
        targets: How often each target is called, most often first.
    """

    inputs: tuple[InputSpec, ...] = ()
    outputs: tuple[OutputSpec, ...] = ()
    symbols: tuple[Symbol, ...] = ()
    schema_version: tuple[int, int] | None = None
    torch_version: str = ""
    node_count: int = 0
    graph_count: int = 0
    dialect: str = ""
    guards: tuple[str, ...] = ()
    targets: Mapping[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        nodes = f"{counted(self.node_count, 'node', 'nodes')} in {counted(self.graph_count, 'graph', 'graphs')}"
        return f"{nodes}, {counted(len(self.inputs), 'input', 'inputs')}, {counted(len(self.outputs), 'output', 'outputs')}"
