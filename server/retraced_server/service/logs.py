"""Structured logs on standard error: text for people, or one JSON object a line.

What belongs to a request carries its ids: they are bound to the context of the request's task (`structlog.contextvars`).
"""

from __future__ import annotations

import logging
import sys
from typing import TypeVar

import structlog
from google.protobuf.message import DecodeError
from structlog.typing import EventDict, Processor, WrappedLogger

_LONGEST = 2000
_LONGEST_TRACEBACK = 20_000
_GRPC = "grpc._cython.cygrpc"

_Value = TypeVar("_Value")


def configure(log_format: str, level: str) -> None:
    """Send this server's logs, and those of the libraries it uses, to standard error.

    Args:
        log_format: `text` or `json`.
        level: The least severe level that is written: `debug`, `info`, `warning` or `error`.
    """
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    # Before all that bounds and escapes: an exception says what it was given, and that may be a caller's.
    render: list[Processor] = [structlog.processors.format_exc_info, _bounded]
    if log_format == "json":
        render.append(structlog.processors.JSONRenderer())
    else:
        plain = structlog.dev.plain_traceback
        render += [_on_one_line, structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain)]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render]
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    # What is audited is written whatever is logged else.
    logging.getLogger("retraced.audit").setLevel(logging.INFO)
    logging.getLogger(_GRPC).addFilter(_without_callers_bytes)
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


def _without_callers_bytes(record: logging.LogRecord) -> bool:
    """Make one line of what gRPC logs of bytes that it cannot decode: it shows them, with tracebacks, up to three times a call.

    What it cannot decode of a caller are a method's path, metadata, and messages to the standard services: ours are decoded by us.
    """
    error = record.exc_info[1] if record.exc_info else None
    if not isinstance(error, UnicodeDecodeError | DecodeError):
        return True
    # The text that it could not decode is its argument; for metadata the call goes on, for a path the line without arguments follows.
    if record.args:
        return False
    record.msg, record.exc_info = f"a call's method or message cannot be decoded ({type(error).__name__})", None
    record.levelno, record.levelname = logging.INFO, logging.getLevelName(logging.INFO)
    return logging.getLogger().isEnabledFor(logging.INFO)


def _bounded(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
    # What a caller or a worker named, and what libraries say of it, has no bound of its own.
    made = {_cut(key): _cut(_plain(value)) for key, value in event.items()}
    if isinstance(traceback := event.get("exception"), str):
        lines = "\n".join(map(_cut, traceback.split("\n")))
        # The end says what went wrong.
        made["exception"] = lines if len(lines) <= _LONGEST_TRACEBACK else f"...{lines[-_LONGEST_TRACEBACK:]}"
    return made


def _on_one_line(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
    # Names and messages of a caller's cannot begin a line of their own, nor command a terminal; keys may come from a worker.
    made = {_printable(key): _printable(value) if isinstance(value, str) else value for key, value in event.items()}
    if isinstance(traceback := event.get("exception"), str):
        # Its lines do begin lines, none of which looks like one of the log.
        made["exception"] = "\n".join(f"    {_printable(line)}" for line in traceback.rstrip().split("\n"))
    return made


def _plain(value: object) -> str | int | float | None:
    # What else there is writes itself as it likes.
    return value if value is None or isinstance(value, str | int | float) else repr(value)


def _cut(value: _Value) -> _Value | str:
    return f"{value[:_LONGEST]}..." if isinstance(value, str) and len(value) > _LONGEST else value


def _printable(text: str) -> str:
    return text if text.isprintable() else ascii(text)[1:-1]
