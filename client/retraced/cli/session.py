"""What all commands share: the consoles, the common options, and a way to a server."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import IO, Any, TextIO, TypeVar

import click
from rich.console import Console

from retraced.cli.connection import Connection
from retraced.cli.console import console, printable
from retraced.client import Client
from retraced.embedded import EmbeddedServer, missing_server_modules
from retraced.errors import AddressMissing, OutputNotWritable

_Command = TypeVar("_Command", bound=Callable[..., object])


@dataclass
class Session:
    """One run of the command.

    Attributes:
        out: Where tables go.
        err: Where progress and errors go.
        as_json: JSON is printed in place of tables.
        quiet: Nothing is printed but errors.
        debug: Tracebacks are shown.
        standard_output_taken: Standard output is an output file's, so tables and JSON go to standard error.
        connection: The way to a server.
    """

    out: Console = field(default_factory=lambda: console(stderr=False))
    err: Console = field(default_factory=lambda: console(stderr=True))
    as_json: bool = False
    quiet: bool = False
    debug: bool = False
    standard_output_taken: bool = False
    connection: Connection = field(default_factory=Connection)

    @property
    def lively(self) -> bool:
        """Whether somebody watches: progress is shown."""
        return self.err.is_terminal and not self.quiet

    def print(self, *renderables: object) -> None:
        """Write tables and lines of text to standard output.

        Raises:
            OutputNotWritable: It cannot be written.
        """
        with self._writing_report():
            for renderable in renderables:
                _print(self.out, renderable)

    def print_text(self, text: str) -> None:
        """Write a text to standard output as it is, without folding it; what would command a terminal is written out.

        Raises:
            OutputNotWritable: It cannot be written.
        """
        with self._writing_report() as file:
            file.write(printable(text))

    def print_json(self, value: object) -> None:
        """Write a value as JSON to standard output.

        Raises:
            OutputNotWritable: It cannot be written.
        """
        with self._writing_report() as file:
            json.dump(plain(value), file, indent=2, allow_nan=False)
            file.write("\n")

    def take_standard_output(self) -> None:
        """Keep standard output for an output file: tables and JSON go to standard error from here on."""
        self.standard_output_taken = True
        self.out = self.err

    @contextlib.contextmanager
    def standard_output(self) -> Iterator[IO[bytes]]:
        """Give standard output as a binary file.

        Raises:
            OutputNotWritable: It cannot be written.
        """
        with _writing_standard_output():
            yield sys.stdout.buffer

    @contextlib.contextmanager
    def _writing_report(self) -> Iterator[TextIO]:
        if self.standard_output_taken:
            yield sys.stderr
        else:
            with _writing_standard_output():
                yield sys.stdout

    @contextlib.contextmanager
    def client(self, server: str | None) -> Iterator[Client]:
        """Yield a client of the server named, or of RETRACED_SERVER, or of one that is started for this call.

        Raises:
            AddressMissing: No server is named, and none can be started.
            EmbeddedServerFailed: It did not start.
            CredentialsInvalid: The token or a certificate cannot be used.
        """
        address = server or os.environ.get("RETRACED_SERVER")
        with contextlib.ExitStack() as stack:
            if not address:
                if self.connection.encrypted:
                    raise click.UsageError("TLS is for a server that --server or RETRACED_SERVER names, and none is named")
                if missing := missing_server_modules():
                    raise AddressMissing(
                        f"no server: none was named, and none can be started here ({', '.join(missing)} not installed)"
                    )
                embedded = EmbeddedServer()
                stack.callback(embedded.stop)
                with self.busy("starting a server for this call (--server or RETRACED_SERVER name a running one)"):
                    embedded.start()
                if self.debug:
                    stack.callback(lambda: self.err.print(embedded.log, end=""))
                yield stack.enter_context(Client(embedded.address))
            else:
                yield stack.enter_context(self.connection.client(address))

    @contextlib.contextmanager
    def busy(self, text: str) -> Iterator[None]:
        """Show that something is going on."""
        if self.lively:
            with self.err.status(text):
                yield
        else:
            yield


def _print(console: Console, renderable: object) -> None:
    if console.is_terminal:
        console.print(renderable)
        return
    # Tables fill their last column with blanks.
    with console.capture() as captured:
        console.print(renderable)
    console.file.write("\n".join(line.rstrip(" ") for line in captured.get().split("\n")))


@contextlib.contextmanager
def _writing_standard_output() -> Iterator[None]:
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        drop_standard_output()
        raise OutputNotWritable(f"standard output cannot be written: {error.strerror}") from error


def drop_standard_output() -> None:
    """Let what is written to standard output from here on vanish: Python would complain again when it flushes at exit."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, sys.stdout.fileno())
    os.close(nothing)


def plain(value: object) -> object:
    """Return a dataclass as what JSON has: its fields by name, bytes as hex."""
    if is_dataclass(value) and not isinstance(value, type):
        return {item.name: plain(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, bytes):
        return value.hex()
    return value


def _set(name: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def callback(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
        if value:
            setattr(context.ensure_object(Session), name, True)

    return callback


def json_option(command: _Command) -> _Command:
    """`--json`, which sets `Session.as_json`."""
    return click.option(
        "--json", is_flag=True, expose_value=False, callback=_set("as_json"), help="Print JSON on standard output."
    )(command)


def quiet_option(command: _Command) -> _Command:
    """`--quiet`, which sets `Session.quiet`."""
    return click.option(
        "--quiet", "-q", is_flag=True, expose_value=False, callback=_set("quiet"), help="Print nothing but errors."
    )(command)


def debug_option(command: _Command) -> _Command:
    """`--debug`, which sets `Session.debug`."""
    return click.option(
        "--debug", is_flag=True, expose_value=False, callback=_set("debug"), help="Show a traceback when it fails."
    )(command)
