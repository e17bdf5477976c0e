"""The command `retraced` as a whole: its commands, and how it ends."""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import signal
import traceback
from collections.abc import Iterator, Sequence
from types import FrameType

import click

from retraced.cli.failure import ExitCode, exit_code, report
from retraced.cli.inspect import inspect
from retraced.cli.print import print_program
from retraced.cli.serve import serve
from retraced.cli.server import info, passes
from retraced.cli.session import Session, drop_standard_output
from retraced.cli.token import token
from retraced.cli.transform import transform
from retraced.errors import RetracedError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(importlib.metadata.version("retraced"), prog_name="retraced")
def cli() -> None:
    """Transform torch.export programs: what mlir-opt is to MLIR.

    \b
    Example:
      retraced inspect model.pt2
      retraced passes
      retraced transform model.pt2 -p 'decompose{table=core-aten},cse,dce' -o out.pt2

    \b
    A server does the work: the one that --server or the environment variable
    RETRACED_SERVER names, or else one that is started for the call, which needs
    the server: pip install '.[server]' in a checkout of retraced.

    \b
    Completion, of passes and their options too where a server is named:
      eval "$(_RETRACED_COMPLETE=bash_source retraced)"     (zsh_source; fish_source)

    \b
    Exit status:
      0    done
      1    the transform failed
      2    wrong usage, bad input, or a file that cannot be read or written
      3    no server, or it is too busy
      129  hung up
      130  interrupted
      143  terminated
    """


for _command in (transform, inspect, print_program, passes, info, serve, token):
    cli.add_command(_command)


def run(arguments: Sequence[str]) -> int:
    """Run the command, and return its exit status. Errors are reported, not raised. Only for the main thread."""
    session = Session()
    try:
        return _run(session, arguments)
    except BrokenPipeError:
        # The reader has gone, as `head` does; it may have gone before it was told of an error.
        drop_standard_output()
        return ExitCode.FAILED


def _run(session: Session, arguments: Sequence[str]) -> int:
    with _signals_as_exceptions():
        try:
            status = cli.main(list(arguments), prog_name="retraced", standalone_mode=False, obj=session)
            return status if isinstance(status, int) else ExitCode.OK
        except click.ClickException as error:
            said = io.StringIO()
            error.show(said)
            session.err.print(said.getvalue(), end="", soft_wrap=True)
            return ExitCode.USAGE
        except RetracedError as error:
            if session.debug:
                session.err.print(traceback.format_exc(), end="", soft_wrap=True)
            report(session, error)
            return exit_code(error)
        except _Ended as ended:
            session.err.print(f"retraced: {ended.status.name.lower().replace('_', ' ')}")
            return ended.status
        except (KeyboardInterrupt, click.Abort):
            session.err.print("retraced: interrupted")
            return ExitCode.INTERRUPTED


class _Ended(BaseException):
    """The process is told to end. No handler of errors on the way takes it for one."""

    def __init__(self, status: ExitCode) -> None:
        super().__init__(status)
        self.status = status


@contextlib.contextmanager
def _signals_as_exceptions() -> Iterator[None]:
    """Make SIGTERM and SIGHUP exceptions, so that a partial file and an embedded server are cleaned up as for Ctrl-C."""

    def end(number: int, _frame: FrameType | None) -> None:
        raise _Ended(ExitCode(128 + number))

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    for number, handler in before.items():
        # Left alone where it is ignored, as under nohup.
        if handler is not signal.SIG_IGN:
            signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
