"""What `on_event` is told while a program is transformed."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from retraced.reports import PassReport


class Stage(StrEnum):
    """What the server is doing, and the unit of `Progress.done`.

    Attributes:
        QUEUED: Waiting for a worker; requests before this one.
        READING: Reading the program; bytes.
        RUNNING: Running a pass; nodes of that pass.
        WRITING: Writing the output; bytes.
        UNKNOWN: A stage that this version of the client does not know.
    """

    QUEUED = "queued"
    READING = "reading"
    RUNNING = "running"
    WRITING = "writing"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Accepted:
    """The server took the request. `queue_position` counts the requests before it."""

    request_id: str
    queue_position: int


@dataclass(frozen=True)
class Uploaded:
    """`sent` of `total` bytes of the archive were given to the connection."""

    sent: int
    total: int


@dataclass(frozen=True)
class Progress:
    """How far the work is, in the stage's unit; `total` is 0 where it is not known."""

    stage: Stage
    done: int
    total: int


@dataclass(frozen=True)
class PassStarted:
    """A pass begins: the `index`-th, from 0, of `count`. `text` is it as canonical pipeline text."""

    index: int
    count: int
    name: str
    text: str


@dataclass(frozen=True)
class PassFinished:
    """The `index`-th pass, from 0, has ended."""

    index: int
    report: PassReport


@dataclass(frozen=True)
class NodesReceived:
    """Metadata of `received` nodes is here so far."""

    received: int


@dataclass(frozen=True)
class Downloaded:
    """`received` bytes of the output archive are here so far. Its size is known only at the end."""

    received: int


@dataclass(frozen=True)
class Retrying:
    """The server could not do it now, for the `reason` and with the `message` of an error; the call is made again after `seconds`.

    What was told of it so far is void: everything comes again, from the upload on.
    """

    seconds: float
    reason: str
    message: str


Event = Accepted | Uploaded | Progress | PassStarted | PassFinished | NodesReceived | Downloaded | Retrying
"""Whatever `on_event` is told."""
