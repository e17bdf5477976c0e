"""The audit log: one line for each request to transform a program, of who asked for what and what came of it."""

from __future__ import annotations

import logging
import logging.handlers
from pathlib import Path

import structlog

from retraced_server.service.calls import Call

LOGGER = "retraced.audit"
"""The logger, whose lines are written whatever the log's level is."""

METHOD = "TransformGraph"
"""The method that is audited."""

_LONGEST = 1000

_log = structlog.stdlib.get_logger("retraced")


class Audit:
    """Writes the lines, each an event `audit`."""

    def __init__(self) -> None:
        self._log = structlog.stdlib.get_logger(LOGGER)

    def ended(self, call: Call) -> None:
        """Write the line of a request that has ended."""
        record, stats = call.record, call.record.stats
        if record.method != METHOD:
            return
        self._log.info(
            "audit",
            request_id=_plain(call.request_id),
            traceparent=_plain(call.traceparent),
            caller=_plain(call.caller),
            peer=_plain(record.peer),
            archive_bytes=record.archive_bytes,
            archive_sha256=record.archive_sha256,
            received_bytes=record.received_bytes,
            pipeline=_plain(record.pipeline),
            output_bytes=stats.output_size,
            output_sha256=stats.output_sha256.hex(),
            sent_bytes=record.sent_bytes,
            code=record.code.name,
            reason=record.reason,
            seconds=round(record.seconds, 4),
        )


def also_write_to(path: Path) -> None:
    """Have the lines written to the end of a file too, as JSON, besides the log. A file that is moved away is made anew.

    Raises:
        OSError: It cannot be opened.
    """
    handler = _AuditFile(path, encoding="utf-8")
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, structlog.processors.JSONRenderer()]
        )
    )
    logging.getLogger(LOGGER).addHandler(handler)


class _AuditFile(logging.handlers.WatchedFileHandler):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Log that a line could not be written, of which the log has a copy."""
        _log.error("a line of the audit log could not be written", file=self.baseFilename, exc_info=True)


def _plain(text: str) -> str:
    """Text of a caller's as part of one line: bounded, and without what ends lines or commands terminals."""
    text = text[:_LONGEST]
    return text if text.isprintable() else ascii(text)[1:-1]
