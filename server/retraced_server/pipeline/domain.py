"""What is said of a pass that ran, and of a request as a whole, as plain data."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

MOST_TEMPLATE_KEYS = 256
"""Calls of which one job may say that it found no template for them."""
LARGEST_TEMPLATE = 1 << 15
"""Bytes of a template that jobs share, and of the key of its call."""


class RetraceMode(Enum):
    """How nodes that a pass left alone are treated: their recorded values are reused, or every operator is executed again and compared."""

    INCREMENTAL = "incremental"
    FULL = "full"


class NodeSelection(Enum):
    """Which nodes' metadata is wanted."""

    NONE = "none"
    CHANGED = "changed"
    ALL = "all"


class OutputDelivery(Enum):
    """When the output archive is sent."""

    ALWAYS = "always"
    IF_MODIFIED = "if-modified"
    NEVER = "never"


@dataclass(frozen=True)
class TransformOptions:
    """What a request asks for besides its passes."""

    node_metadata: NodeSelection = NodeSelection.NONE
    validate_only: bool = False
    mode: RetraceMode = RetraceMode.INCREMENTAL
    refuse_new_guards: bool = False
    output: OutputDelivery = OutputDelivery.ALWAYS


@dataclass(frozen=True)
class TransformRequest:
    """A request as its caller announces it.

    Attributes:
        pipeline: The pipeline as text.
        archive_size: How many bytes the archive has.
        archive_sha256: Its digest; empty where the caller does not say.
        options: What else is asked for.
    """

    pipeline: str
    archive_size: int
    archive_sha256: bytes = b""
    options: TransformOptions = TransformOptions()


@dataclass(frozen=True)
class PassReport:
    """What one pass of a pipeline did. `seconds` is wall time; nodes count the subgraphs of higher-order operators too."""

    name: str
    text: str
    modified: bool
    rewrites: int
    seconds: float
    nodes_before: int
    nodes_after: int
    remarks: tuple[str, ...] = ()
    new_guards: tuple[str, ...] = ()


@dataclass(frozen=True)
class Period:
    """A part of a job's time: a stage or a pass. `start` is in seconds since the job's begin."""

    name: str
    start: float
    seconds: float


@dataclass(frozen=True)
class JobStats:
    """What a job took, for whoever operates the server.

    Attributes:
        stages: The stages that were begun, in order, by their names in `retraced.v1.Timings`.
        passes: The passes that have ended, in order.
        output_size: The size of the output that was sent; 0 where none was.
        output_sha256: Its sha256; empty where none was sent whole.
    """

    stages: tuple[Period, ...] = ()
    passes: tuple[Period, ...] = ()
    output_size: int = 0
    output_sha256: bytes = b""


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a node of the output program came from.

    Attributes:
        from_nodes: The nodes of the input program that it came from, each `name`, or `true_graph_0.body_graph_0:name` in a subgraph.
        made_by: The canonical pipeline text of the pass that made it; None where it is a node of the input program, unchanged.
    """

    from_nodes: tuple[str, ...]
    made_by: str | None
