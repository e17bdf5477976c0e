"""What an operator can set: environment variables with the prefix RETRACED_, or the options of `retraced serve`."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ByteSize, Field
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from retraced_server.engine.budget import LEAST_WORKER_MEMORY, memory_for_jobs, memory_of_a_worker

_GIB = 1 << 30
_MIB = 1 << 20


def _processors() -> int:
    return len(os.sched_getaffinity(0))


def _worker_memory(validated: dict[str, Any]) -> ByteSize:
    memory = validated.get("memory", memory_for_jobs())
    return ByteSize(memory_of_a_worker(memory, validated.get("workers", _processors())))


def _split(value: object) -> object:
    return [name for name in map(str.strip, value.split(",")) if name] if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
"""Names; one text with commas between them in an environment variable."""

Paths = Annotated[tuple[Path, ...], NoDecode, BeforeValidator(_split)]
"""Paths; one text with commas between them in an environment variable."""


def _enough(size: ByteSize) -> ByteSize:
    if 0 < size < LEAST_WORKER_MEMORY:
        least = ByteSize(LEAST_WORKER_MEMORY).human_readable(separator="")
        raise PydanticCustomError("memory", "one worker takes {least} or more; 0 is no limit", {"least": least})
    return size


Memory = Annotated[ByteSize, AfterValidator(_enough)]
"""Memory for workers: enough for one, or 0 for no limit."""


class Settings(BaseSettings):
    """The settings of one server. A field is an option `--field-name` and a variable `RETRACED_FIELD_NAME`.

    Raises:
        pydantic.ValidationError: A value is not one that its setting takes.
    """

    model_config = SettingsConfigDict(env_prefix="RETRACED_", frozen=True)

    host: str = Field("127.0.0.1", min_length=1, description="Address to listen on: a name, an IP address or unix:/PATH.")
    port: int = Field(50051, ge=0, le=65535, description="TCP port to listen on; 0 takes a free one.")
    tls_certificate: Path | None = Field(
        None, description="Certificate of the server, PEM, with what leads to its authority; none: plain text."
    )
    tls_key: Path | None = Field(None, description="Private key of the certificate, PEM, not encrypted.")
    tls_client_ca: Path | None = Field(
        None,
        description="Authorities, PEM, one of which has to have signed each caller's certificate; none: callers need none.",
    )
    callers: Path | None = Field(
        None, description="Who may call, and with which limits, TOML; none: everybody who can connect."
    )
    allow_insecure: bool = Field(False, description="Listen where other machines reach it even without TLS or authentication.")
    health_port: int | None = Field(
        None, ge=1, le=65535, description="Further TCP port, which answers health checks alone, in plain text and to everybody."
    )
    max_connections: int = Field(
        1024, ge=0, le=1 << 20, description="Connections at a time to each address that is listened on; 0 is no limit."
    )
    max_connections_per_peer: int = Field(
        128,
        ge=0,
        description="Of those, connections of one IPv4 address or IPv6 network (/64); a proxy is one too. 0 is no limit.",
    )
    max_requests_per_caller: int = Field(128, ge=0, description="Calls that one caller may have at a time; 0 is no limit.")
    max_upload_per_caller: ByteSize = Field(
        ByteSize(0), ge=0, description="Size of all archives that one caller may have on the server at a time; 0 is no limit."
    )
    max_crashes_per_caller: int = Field(
        20, ge=0, description="Workers that the programs of one caller may crash in ten minutes; 0 is no limit."
    )
    workers: int = Field(
        default_factory=_processors,
        ge=1,
        le=4096,
        description="Jobs that run at a time, each in a process of its own, if memory allows.",
    )
    max_queued: int = Field(64, ge=0, description="Requests that may wait for a worker; more are told to come later.")
    job_timeout: float = Field(600.0, gt=0, allow_inf_nan=False, description="Seconds that one job may run.")
    read_timeout: float = Field(
        60.0,
        gt=0,
        allow_inf_nan=False,
        description="Seconds of processor time that reading one program may take.",
    )
    memory: Memory = Field(
        default_factory=lambda: ByteSize(memory_for_jobs()),
        ge=0,
        description="Memory that jobs may have together; one that does not fit waits. 0 is no limit.",
    )
    worker_memory: Memory = Field(
        default_factory=_worker_memory,
        ge=0,
        description="Memory of one worker beyond what it shares with the others; 0 is no limit.",
    )
    templates: int = Field(
        4096,
        ge=0,
        le=1 << 20,
        description="Templates of decompositions, by the shapes of calls, that jobs share; 0 shares none.",
    )
    max_archive_size: ByteSize = Field(ByteSize(4 * _GIB), ge=1, description="Largest archive that is taken.")
    spool_dir: Path = Field(
        default_factory=lambda: Path(tempfile.gettempdir()), description="Folder for archives that are too large for memory."
    )
    spool_memory: ByteSize = Field(
        ByteSize(8 * _MIB), ge=0, description="Size up to which an archive is kept in memory while it is uploaded."
    )
    imports: Names = Field(
        (),
        validation_alias="RETRACED_IMPORT",
        description="Module to load into the workers: operators, passes. May be given several times.",
    )
    allow_namespaces: Names = Field(
        (),
        validation_alias="RETRACED_ALLOW_NAMESPACE",
        description="Namespace of torch's own operators that programs may hold, besides the usual. May be given several times.",
    )
    allow_operators: Names = Field(
        (),
        validation_alias="RETRACED_ALLOW_OPERATOR",
        description="Operator that programs may hold, such as aten._sobol_engine_draw.default, besides those on the list. May be given "
        "several times.",
    )
    read_paths: Paths = Field(
        (),
        validation_alias="RETRACED_READ_PATH",
        description="File or folder that workers may read, besides Python's packages. May be given several times.",
    )
    first_uid: int = Field(
        65000,
        ge=1,
        le=(1 << 31) - 1,
        description="First of the users that workers become where the server is root, one for each worker.",
    )
    allow_missing_sandbox: bool = Field(
        False, description="Start even where the machine lacks a layer of the workers' sandbox, with those that it has."
    )
    accept_newer_schema: bool = Field(
        False,
        description="Read programs in newer minor versions of torch's schema too, as far as every field in them is known.",
    )
    upload_idle_timeout: float = Field(
        60.0,
        gt=0,
        allow_inf_nan=False,
        description="Seconds that an upload may stand still, or take for each MiB, before its request is ended.",
    )
    download_idle_timeout: float = Field(
        60.0,
        gt=0,
        allow_inf_nan=False,
        description="Seconds that a caller may not read its answer before its request is ended.",
    )
    drain_grace: float = Field(
        30.0, ge=0, allow_inf_nan=False, description="Seconds that running requests have to end after SIGTERM or SIGINT."
    )
    metrics_port: int | None = Field(
        None, ge=0, le=65535, description="TCP port for metrics and readiness over HTTP; 0 takes a free one."
    )
    metrics_host: str = Field("127.0.0.1", min_length=1, description="Address for them: a name or an IP address.")
    audit_log: Path | None = Field(
        None, description="File that a JSON line is written to for each request to transform, besides the log."
    )
    send_tracebacks: bool = Field(
        False,
        description="Send callers the traceback of a pass that fails, with paths and lines of its source; the log has it anyway.",
    )
    traces: bool = Field(
        False, description="Send OpenTelemetry traces; OTEL_EXPORTER_OTLP_ENDPOINT says where, and asks for them too."
    )
    log_format: Literal["text", "json"] = Field("text", description="How log lines are written to standard error.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe log lines that are written."
    )
