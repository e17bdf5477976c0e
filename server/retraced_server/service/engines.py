"""The choice of the engine. Everything else knows engines by the protocol `engine.base.Engine`."""

from __future__ import annotations

from retraced_server.engine.base import Engine
from retraced_server.engine.local import LocalEngine, LocalEngineConfig
from retraced_server.service.settings import Settings


def create_engine(settings: Settings) -> Engine:
    """Return the engine that settings ask for, which has yet to be started: that of this machine.

    Raises:
        RetracedError: WORKERS_UNAVAILABLE: no job would ever fit into the memory.
    """
    return LocalEngine(
        LocalEngineConfig(
            workers=settings.workers,
            max_queued=settings.max_queued,
            job_timeout=settings.job_timeout,
            read_timeout=settings.read_timeout,
            memory_bytes=settings.memory,
            worker_memory_bytes=settings.worker_memory,
            imports=settings.imports,
            allow_namespaces=settings.allow_namespaces,
            allow_operators=settings.allow_operators,
            spool_dir=settings.spool_dir,
            first_uid=settings.first_uid,
            read_paths=settings.read_paths,
            allow_missing_sandbox=settings.allow_missing_sandbox,
            accept_newer_schema=settings.accept_newer_schema,
            templates=settings.templates,
        )
    )
