"""Says why a command failed, in one message: what, where, what to do."""

from __future__ import annotations

import enum

from rich.text import Text

from retraced._install import install_advice
from retraced.cli.session import Session
from retraced.errors import LocalError, RequestInvalid, RetracedError, ServerUnavailable


class ExitCode(enum.IntEnum):
    """The command's statuses, which `retraced --help` documents."""

    OK = 0
    FAILED = 1
    USAGE = 2
    UNAVAILABLE = 3
    HUNG_UP = 129
    INTERRUPTED = 130
    TERMINATED = 143


_WHERE = {
    "pass": "pass",
    "graph": "graph",
    "node": "node",
    "target": "target",
    "source": "source",
    "error_type": "raised",
    "error_line": "raised at",
    "completed_pipeline": "done before",
    "remaining_pipeline": "not done",
}
_ADVICE = {
    "ADDRESS_MISSING": f"name a running server with --server or RETRACED_SERVER, or {install_advice('server')}",
    "SERVER_UNREACHABLE": "start a server with `retraced serve`, or leave --server and RETRACED_SERVER out; a server with TLS needs --tls",
    "EMBEDDED_SERVER_FAILED": "`retraced serve` shows the server's whole log",
    "ARCHIVE_INVALID": "give a file that torch.export.save has written",
    "PROGRAM_MISSING": "give a file that torch.export.save has written",
    "PROGRAM_INVALID": "export the program again, and write it with torch.export.save",
    "PROGRAM_UNSUPPORTED": "docs/unsupported.md lists what is not taken, and what to do",
    "PASS_UNKNOWN": "`retraced passes` lists the passes",
    "OPTION_UNKNOWN": "`retraced passes NAME` lists a pass's options",
    "OPTION_INVALID": "`retraced passes NAME` lists a pass's options and what they take",
    "PIPELINE_SYNTAX": "a pipeline is written like decompose{table=core-aten},cse,dce",
    "PROGRAM_TOO_LARGE": "`retraced info` shows the server's limits",
    "DEADLINE_EXCEEDED": "give it longer with --timeout",
    "JOB_TIMED_OUT": "`retraced info` shows the server's limits",
    "OUTPUT_UNSAFE": "do not use this server's outputs; custom operators that a pass brings in can be allowed with --namespace",
    "NEW_GUARDS": "leave out --refuse-new-guards to have them reported instead",
    "QUEUE_FULL": "try again later",
    "SERVER_DRAINING": "try again later, or another server",
    "WORKERS_UNAVAILABLE": "try again later",
    "STORAGE_FULL": "try again later",
    "UNAUTHENTICATED": "give the token of a caller that the server knows with --token-file or RETRACED_TOKEN",
    "CALLER_LIMIT_EXCEEDED": "try again later",
    "STORAGE_CORRUPT": "try again, and tell whoever runs the server",
}


_TLS_ADVICE = {
    "authority-unknown": "give the certificate of the authority that signed the server's with --tls-ca FILE",
    "plain-text": "leave --tls and its like out: the server speaks plain text",
}


def exit_code(error: RetracedError) -> ExitCode:
    """Return the status that an error ends the command with."""
    match error:
        case RequestInvalid() | LocalError():
            return ExitCode.USAGE
        case ServerUnavailable():
            return ExitCode.UNAVAILABLE
        case _:
            return ExitCode.FAILED


def report(session: Session, error: RetracedError) -> None:
    """Print an error: for people on standard error, and with `--json` as an object on standard output."""
    if session.as_json:
        session.print_json(
            {
                "error": {
                    "reason": error.reason,
                    "message": error.message,
                    "metadata": error.metadata,
                    "violations": error.violations,
                    "retry_after": error.retry_after,
                    "request_id": error.request_id,
                }
            }
        )
        if session.standard_output_taken:
            # The object stands on standard error, where the text would spoil it.
            return
    message = Text()
    message.append(f"retraced: {error.reason}", style="bold red")
    message.append(f": {error.message}")
    for violation in error.violations:
        if violation.description not in error.message:
            _line(message, violation.field, violation.description)
    for key, label in _WHERE.items():
        if error.metadata.get(key):
            _line(message, label, error.metadata[key])
    if error.metadata.get("traceback"):
        _line(message, "traceback", f"\n{error.metadata['traceback'].rstrip()}")
    if error.retry_after is not None:
        _line(message, "retry after", f"{error.retry_after:g} s")
    if error.request_id:
        _line(message, "request", error.request_id)
    if advice := _advice(error):
        _line(message, "what to do", advice)
    session.err.print(message, soft_wrap=True)


def _advice(error: RetracedError) -> str | None:
    if error.metadata.get("limit_of") == "caller":
        return "ask whoever runs the server for more: this limit is yours alone"
    return _TLS_ADVICE.get(error.metadata.get("tls", "")) or _ADVICE.get(error.reason)


def _line(message: Text, label: str, text: str) -> None:
    message.append(f"\n  {label}: ", style="bold")
    message.append(text.replace("\n", "\n    "))
