"""A server on this machine for as long as a context lasts."""

from __future__ import annotations

import importlib.util
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from types import TracebackType
from typing import IO

from retraced._install import install_advice
from retraced.errors import EmbeddedServerFailed

# Modules of the server extra, one of which a base install lacks.
_SERVER_MODULES = (
    "retraced_server",
    "torch",
    "numpy",
    "grpc_health",
    "grpc_reflection",
    "pydantic_settings",
    "structlog",
    "prometheus_client",
)
_READY = "retraced: listening on "
_LOG_LINES = 20
# Settings of another server on this machine, with which nobody could call this one.
_NOT_INHERITED = frozenset(
    f"RETRACED_{name}" for name in ("TLS_CERTIFICATE", "TLS_KEY", "TLS_CLIENT_CA", "CALLERS", "HEALTH_PORT", "METRICS_PORT")
)


def missing_server_modules() -> tuple[str, ...]:
    """Return the modules of the server extra that are not installed, without importing any."""
    return tuple(name for name in _SERVER_MODULES if importlib.util.find_spec(name) is None)


class EmbeddedServer:
    """A server in a process of its own, on a free port of 127.0.0.1; a context manager. It never outlives this process.

    Example::

        with EmbeddedServer() as server, Client(server.address) as client:
            ...

    Needs the server extra: `pip install '.[server]'` in a checkout.

    Args:
        arguments: More arguments for `python -m retraced_server`, for example `["--workers", "2"]`.
        start_timeout: Seconds within which it has to be ready; importing torch takes a few.
        stop_timeout: Seconds that requests may go on when it is stopped; then it is killed.
    """

    def __init__(self, arguments: Sequence[str] = (), *, start_timeout: float = 120.0, stop_timeout: float = 10.0) -> None:
        self._arguments = tuple(arguments)
        self._start_timeout = start_timeout
        self._stop_timeout = stop_timeout
        self._process: subprocess.Popen[bytes] | None = None
        # A file while the server runs, and text afterwards.
        self._log: IO[bytes] | str = ""
        self._address = ""

    @property
    def address(self) -> str:
        """The address that it listens on, as `Client` takes it; empty while it does not run."""
        return self._address

    @property
    def pid(self) -> int | None:
        """The process that listens; None while it does not run."""
        return None if self._process is None else self._process.pid

    @property
    def log(self) -> str:
        """What it has written to its standard error so far."""
        if isinstance(self._log, str):
            return self._log
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), size, 0).decode(errors="replace")

    def start(self) -> None:
        """Start it and wait until it is ready. Does nothing while it runs.

        Raises:
            EmbeddedServerFailed: The server extra is not installed, or the server did not come up in time.
        """
        if self._process is not None:
            return
        if missing := missing_server_modules():
            raise EmbeddedServerFailed(
                f"no server can be started here: {', '.join(missing)} not installed; {install_advice('server')}, "
                "or name a running server"
            )
        log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by stop()
        self._log = log
        self._process = subprocess.Popen(
            [sys.executable, "-m", "retraced._embedded_child", "--host", "127.0.0.1", "--port", "0", *self._arguments],
            # Held open, and never written to: the server ends with it.
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env={name: value for name, value in os.environ.items() if name not in _NOT_INHERITED},
            # A Ctrl-C is for this process, which then stops the server in its own time.
            process_group=0,
        )
        try:
            self._address = self._wait_until_ready(self._process)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop it: requests may end within `stop_timeout`, then it is killed. May be called twice."""
        process, self._process = self._process, None
        self._address = ""
        if process is None:
            return
        process.terminate()
        try:
            process.wait(self._stop_timeout)
        except BaseException as error:
            process.kill()
            process.wait()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
        finally:
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
            if not isinstance(self._log, str):
                file, self._log = self._log, self.log
                file.close()

    def __enter__(self) -> EmbeddedServer:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> str:
        assert process.stdout is not None
        deadline = time.monotonic() + self._start_timeout
        line = b""
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise self._failed(f"was not ready within {self._start_timeout:g} s")
                data = os.read(process.stdout.fileno(), 1)
                if not data:
                    raise self._failed(f"ended with {_status(process.wait())} before it was ready")
                line += data
        text = line.decode(errors="replace").strip()
        if not text.startswith(_READY):
            raise self._failed(f"said {text!r} where it should say where it listens")
        return text.removeprefix(_READY)

    def _failed(self, what: str) -> EmbeddedServerFailed:
        end = "\n".join(self.log.splitlines()[-_LOG_LINES:])
        return EmbeddedServerFailed(f"the embedded server {what}" + (f":\n{end}" if end else ""), metadata={"log": end})


def _status(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"status {code}"
