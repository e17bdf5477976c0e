"""What an operator's tools ask over HTTP, at an address of its own: `/metrics`, `/livez` and `/readyz`."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterable
from socketserver import TCPServer, ThreadingMixIn
from typing import TYPE_CHECKING
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app

from retraced_server.service.listen import AddressError

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

# How long the event loop may take to answer before the server counts as stuck, and a caller to send its request.
_LOOP_SECONDS = 5.0
_REQUEST_SECONDS = 10


class Monitor:
    """Answers in threads of its own, so that a server that is stuck can be told from one that is gone.

    Args:
        registry: What `/metrics` gives.
        obstacles: Says why no request would be taken now; nothing where one would. Called in the event loop.
    """

    def __init__(self, registry: CollectorRegistry, obstacles: Callable[[], list[str]]) -> None:
        self._metrics = make_wsgi_app(registry)
        self._obstacles = obstacles
        self._loop = asyncio.get_running_loop()
        self._server: WSGIServer | None = None
        self._thread: threading.Thread | None = None

    def start(self, host: str, port: int) -> str:
        """Take an address and begins to answer.

        Args:
            host: A name, or an IPv4 or IPv6 address.
            port: A TCP port; 0 takes a free one.

        Returns:
            The URL, with the port that was taken.

        Raises:
            AddressError: It cannot listen there.
        """
        bare = host.removeprefix("[").removesuffix("]")
        shown = f"[{bare}]" if ":" in bare else bare
        try:
            family, *_, address = socket.getaddrinfo(bare, port, type=socket.SOCK_STREAM)[0]
            self._server = _Server(family, str(address[0]), port)
        except OSError as error:
            raise AddressError(f"cannot listen on {shown}:{port} for metrics: {error.strerror or error}") from error
        self._server.set_app(self._answer)
        self._thread = threading.Thread(target=self._server.serve_forever, name="monitor", daemon=True)
        self._thread.start()
        return f"http://{shown}:{self._server.server_port}"

    async def stop(self) -> None:
        """Answer nothing more. Twice is once."""
        server, self._server = self._server, None
        if server is not None:
            await asyncio.to_thread(server.shutdown)
            server.server_close()

    def _answer(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        match environ["PATH_INFO"]:
            case "/metrics":
                answer: Iterable[bytes] = self._metrics(environ, start_response)
                return answer
            case "/livez":
                problems = self._ask(list)
            case "/readyz":
                problems = self._ask(self._obstacles)
            case _:
                start_response("404 Not Found", [_PLAIN])
                return [b"there are /metrics, /livez and /readyz\n"]
        start_response("503 Service Unavailable" if problems else "200 OK", [_PLAIN])
        return ["".join(f"{line}\n" for line in problems or ["ok"]).encode()]

    def _ask(self, question: Callable[[], list[str]]) -> list[str]:
        async def asked() -> list[str]:
            return question()

        try:
            return asyncio.run_coroutine_threadsafe(asked(), self._loop).result(_LOOP_SECONDS)
        except TimeoutError:
            return [f"the server has not answered for {_LOOP_SECONDS:g} s"]


_PLAIN = ("Content-Type", "text/plain; charset=utf-8")


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def __init__(self, family: socket.AddressFamily, host: str, port: int) -> None:
        self.address_family = family
        super().__init__((host, port), _Handler)

    def server_bind(self) -> None:
        # Not HTTPServer's own, which asks the name service for the address's name.
        TCPServer.server_bind(self)
        host, self.server_port = self.server_address[:2]
        self.server_name = str(host)
        self.setup_environ()

    def handle_error(self, request: object, client_address: object) -> None:
        # A caller that goes, or sends no HTTP, is not news.
        pass


class _Handler(WSGIRequestHandler):
    timeout = _REQUEST_SECONDS

    def log_message(self, format: str, *args: object) -> None:
        # Probes and scrapes come every few seconds.
        pass
