"""What a server is, and which passes it can run."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class OptionType(StrEnum):
    """The type of a pass option's value, which says how its text in a pipeline is read."""

    BOOL = "bool"
    INT = "int"
    FLOAT = "float"
    STRING = "string"
    CHOICE = "choice"
    UNKNOWN = "unknown"


class IrLevel(StrEnum):
    """The level of the intermediate representation that a pass takes."""

    ANY = "any"
    FUNCTIONAL = "functional"
    CORE_ATEN = "core_aten"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class PassOption:
    """One option of a pass.

    Attributes:
        name: As in `pass{name=value}`.
        summary: One line that says what it does.
        type: The type of its value.
        default: The value it has when a pipeline does not give one, in pipeline syntax; None: it must be given.
        choices: For `OptionType.CHOICE`, the values that are allowed.
    """

    name: str
    summary: str
    type: OptionType
    default: str | None = None
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class PassInfo:
    """A pass that a server can run.

    Attributes:
        name: Its name in a pipeline.
        summary: One line that says what it does.
        description: Its full description, in plain text; may be empty.
        options: Its options, in the order of the canonical pipeline text.
        needs_weights: Whether it reads the values of weights, not only their shapes.
        ir_level: The level of programs it takes.
        provider: The distribution or module that provides it.
    """

    name: str
    summary: str
    description: str = ""
    options: tuple[PassOption, ...] = ()
    needs_weights: bool = False
    ir_level: IrLevel = IrLevel.ANY
    provider: str = ""


@dataclass(frozen=True)
class ImportedModule:
    """A module that the operator loaded into the workers. `version` is empty where it has none."""

    name: str
    version: str


@dataclass(frozen=True)
class Limits:
    """What a server allows.

    Attributes:
        max_archive_bytes: The largest archive in bytes.
        max_queued: Requests that may wait.
        workers: Requests that run at a time.
        job_timeout_seconds: Wall time of one job in seconds.
        worker_memory_bytes: Memory of one worker in bytes, beyond what it shares with the others; 0: no limit.
        memory_bytes: Memory that all workers may have together in bytes; 0: no limit.
    """

    max_archive_bytes: int
    max_queued: int
    workers: int
    job_timeout_seconds: float
    worker_memory_bytes: int
    memory_bytes: int


class SandboxLayerState(StrEnum):
    """Whether a layer of a server's sandbox is there; it is not needed where it would take away what the server does not have itself."""

    IN_FORCE = "in_force"
    MISSING = "missing"
    NOT_NEEDED = "not_needed"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class SandboxLayer:
    """One layer of the sandbox that workers run in.

    Attributes:
        name: Its name: seccomp, landlock, user, privileges, limits or namespaces.
        state: Whether it is there.
        detail: What it is on the server's machine, or why it is missing.
        required: Workers are not safe from programs of strangers without it.
    """

    name: str
    state: SandboxLayerState
    detail: str
    required: bool


@dataclass(frozen=True)
class ServerInfo:
    """What a server is.

    Attributes:
        version: The version of retraced.
        torch_version: The version of torch that the workers run.
        python_version: The version of Python that the workers run.
        schema_version: Major and minor of the schema that the server writes; it reads this major.
        imports: The modules that the operator loaded into the workers.
        limits: What the server allows.
        running: Requests that run now.
        queued: Requests that wait now.
        uptime_seconds: Seconds since the server was ready.
        sandbox: The sandbox that workers run in, by layers; empty for a server that does not say.
    """

    version: str
    torch_version: str
    python_version: str
    schema_version: tuple[int, int]
    imports: tuple[ImportedModule, ...]
    limits: Limits
    running: int
    queued: int
    uptime_seconds: float
    sandbox: tuple[SandboxLayer, ...] = ()
