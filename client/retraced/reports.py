"""What the server says of a transformed program: a report for each pass, and one summary."""

from __future__ import annotations

from dataclasses import dataclass, field

from retraced._text import ShortRepr, counted
from retraced.program import ProgramInfo


@dataclass(frozen=True, repr=False)
class PassReport(ShortRepr):
    """What one pass of a pipeline did.

    Attributes:
        name: The pass's name.
        text: The pass as canonical pipeline text, options included.
        modified: Whether it changed the program. If not, its output is its input.
        rewrites: How many rewrites it made; a pass says what it counts as one.
        seconds: Wall time.
        nodes_before: Nodes before it, subgraphs of higher-order operators included.
        nodes_after: Nodes after it, subgraphs of higher-order operators included.
        remarks: What the pass wants its caller to know.
        new_guards: Guards on symbolic shapes that its new operators added and that narrow what the program accepts: each an expression, then
            the node at which it was added, with the line of its source.
    """

    name: str
    text: str
    modified: bool
    rewrites: int
    seconds: float
    nodes_before: int
    nodes_after: int
    remarks: tuple[str, ...] = ()
    new_guards: tuple[str, ...] = ()

    def __str__(self) -> str:
        modified = "modified" if self.modified else "not modified"
        nodes = f"{self.nodes_before} to {self.nodes_after} nodes"
        return f"{self.text}: {modified}, {counted(self.rewrites, 'rewrite', 'rewrites')}, {nodes}, {self.seconds:.3g} s"


@dataclass(frozen=True)
class Timings:
    """How long a request took, in seconds of wall time.

    Attributes:
        queued: In the queue.
        reading: Reading and checking the program.
        running: In passes and checks between them.
        describing: Encoding node metadata.
        writing: Writing the output archive.
    """

    queued: float = 0.0
    reading: float = 0.0
    running: float = 0.0
    describing: float = 0.0
    writing: float = 0.0


@dataclass(frozen=True, repr=False)
class Summary(ShortRepr):
    """What came out.

    Attributes:
        modified: Whether any pass modified the program. If not, the output is the input, byte for byte.
        input: The program that came in.
        output: The program that goes out; None when it was only validated.
        output_size: The size of the output archive in bytes, whether sent or not; 0 where there is none.
        output_sha256: The sha256 of the output archive, 32 bytes; empty where it was not sent.
        pipeline: The pipeline in canonical form.
        timings: How long it took.
        remarks: What the caller should know of the program as a whole.
    """

    modified: bool
    input: ProgramInfo
    output: ProgramInfo | None
    output_size: int
    output_sha256: bytes
    pipeline: str
    timings: Timings = field(default_factory=Timings)
    remarks: tuple[str, ...] = ()

    def __str__(self) -> str:
        modified = "modified" if self.modified else "not modified"
        after = "" if self.output is None else f" to {self.output.node_count}"
        return (
            f"{self.pipeline}: {modified}, {self.input.node_count}{after} nodes, {counted(self.output_size, 'byte', 'bytes')}"
        )
