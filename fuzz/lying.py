"""Lies to clients and to the command: a server whose answers are mutated true ones, and a caller in a process of its own."""

from __future__ import annotations

import json
import random
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import grpc

from fuzz.answers import ask, open_channel
from fuzz.lies import Lie, lie
from fuzz.report import Finding, Report
from fuzz.streams import frame
from retraced import EmbeddedServer
from retraced.v1 import graph_transform_pb2 as pb

_SERVICE: Final = "retraced.v1.GraphTransformService"
_PATIENCE: Final = 120.0
"""Seconds within which a caller has come to an end with one answer: it gives up by itself after 20."""

_EVERY: Final = 100
_WANTED: Final = (
    pb.TransformOptions(node_metadata=pb.NODE_METADATA_SELECTION_ALL, output=pb.OUTPUT_DELIVERY_ALWAYS),
    pb.TransformOptions(output=pb.OUTPUT_DELIVERY_IF_MODIFIED),
    pb.TransformOptions(validate_only=True),
)


@dataclass(frozen=True)
class Truth:
    """What a server that does not lie answers: each program's transforms, in the order of what is wanted, and the other methods."""

    transforms: Mapping[str, list[list[bytes]]]
    passes: bytes
    info: bytes


@dataclass
class _Lies:
    """What is answered to each method."""

    transform: Lie = field(default_factory=lambda: Lie([]))
    passes: Lie = field(default_factory=lambda: Lie([]))
    info: Lie = field(default_factory=lambda: Lie([]))


def true_answers(archives: Mapping[str, bytes]) -> Truth:
    """Ask a server of its own for what is mutated afterwards."""
    arguments = ["--workers", "1", "--import", "tests.support.programs"]
    with EmbeddedServer(arguments) as server, open_channel(server.address) as channel:
        transforms = {
            name: [_transformed(channel, name, archive, options) for options in _WANTED] for name, archive in archives.items()
        }
        passes, info = (_asked(channel, method) for method in ("ListPasses", "GetServerInfo"))
    return Truth(transforms, passes, info)


def _asked(channel: grpc.Channel, method: str) -> bytes:
    # Any: its types take messages alone.
    ask_for: Any = channel.unary_unary(f"/{_SERVICE}/{method}")
    return bytes(ask_for(b""))


def _transformed(channel: grpc.Channel, name: str, archive: bytes, options: pb.TransformOptions) -> list[bytes]:
    spec = pb.TransformSpec(pipeline="cse,dce", options=options, archive_size=len(archive))
    chunk = pb.TransformGraphRequest(archive_chunk=archive).SerializeToString()
    answer = ask(channel, [frame(spec), chunk], request_id="truth")
    assert answer.summary is not None, f"{name}: {answer.reason} {answer.message}"
    return [bytes(response.SerializeToString()) for response in answer.responses]


def fuzz_lying(
    report: Report,
    archives: Mapping[str, bytes],
    *,
    count: int | None = None,
    seconds: float | None = None,
    progress: Callable[[Report], None] = lambda _: None,
) -> None:
    """Have callers lied to, and count what they make of it.

    Args:
        report: Where it is counted. Its seed is that of the first lie; each further one has the next.
        archives: The programs that are sent, by name.
        count: How many calls are made; None is no bound.
        seconds: Seconds after which no further call is made; None is no bound.
        progress: Called every hundred calls.
    """
    truth = true_answers(archives)
    with tempfile.TemporaryDirectory() as folder, _Liar() as liar, _Caller(liar.address, Path(folder)) as caller:
        paths = {name: Path(folder) / f"{name}.pt2" for name in archives}
        for name, path in paths.items():
            path.write_bytes(archives[name])
        report.begin()
        for number in range(sys.maxsize if count is None else count):
            if seconds is not None and time.monotonic() - report.started > seconds:
                break
            seed = report.seed + number
            program = sorted(archives)[seed % len(archives)]
            wanted, task = _task(random.Random(seed))
            others = [answer for answers in truth.transforms.values() for answer in answers]
            liar.lies = _Lies(
                lie([truth.transforms[program][wanted], *others], pb.TransformGraphResponse, seed),
                lie([[truth.passes]], pb.ListPassesResponse, seed),
                lie([[truth.info]], pb.GetServerInfoResponse, seed),
            )
            outcome, finding = caller.call({"program": str(paths[program]), **task})
            report.outcomes[outcome] += 1
            if finding:
                steps = (str(task), *liar.lies.transform.steps)
                report.found(Finding(outcome, program, seed, steps, finding), b"".join(liar.lies.transform.frames)[: 1 << 20])
            report.end()
            if report.count % _EVERY == 0:
                progress(report)


def _task(chance: random.Random) -> tuple[int, dict[str, Any]]:
    """Return what is called, and which of the true answers is one to it."""
    common = ["transform", "PROGRAM", "-p", "cse,dce", "--server", "SERVER", "--timeout", "20"]
    common += chance.choice(([], ["--no-retry"]))
    shown = chance.choice(([], ["--json"], ["--quiet"]))
    wanted = chance.randrange(len(_WANTED))
    if chance.random() < 0.5:
        options: dict[str, Any] = {"attempts": chance.choice((1, 3))}
        options |= (
            {"node_metadata": "all"},
            {"want_output": chance.random() < 0.8, "keep_at_home": chance.choice(([], ["guards", "stack-traces"]))},
            {"validate_only": True},
        )[wanted]
        return wanted, {"how": chance.choice(("client", "client", "async client")), "options": options}
    command = (
        [*common, *shown, "-o", "out.pt2", "--metadata", "nodes.jsonl"],
        [*common, *shown, *chance.choice((["-o", "out.pt2"], []))],
        chance.choice(
            ([*common, *shown, "--validate-only"], *([name, "--server", "SERVER", *shown[:1]] for name in ("passes", "info")))
        ),
    )[wanted]
    return wanted, {"how": "command", "options": {"arguments": command}}


class _Liar:
    """A server that answers every call as it is told. Its messages are bytes, so that they need be none."""

    def __init__(self) -> None:
        self.lies = _Lies()
        self._server = grpc.server(ThreadPoolExecutor(16))
        handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
            "TransformGraph": grpc.stream_stream_rpc_method_handler(self._transform),
            "ListPasses": grpc.unary_unary_rpc_method_handler(lambda _, context: self._ask(self.lies.passes, context)),
            "GetServerInfo": grpc.unary_unary_rpc_method_handler(lambda _, context: self._ask(self.lies.info, context)),
        }
        self._server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(_SERVICE, handlers)])
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    def _transform(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        made = self.lies.transform
        if not made.early:
            for _ in requests:
                pass
        yield from made.frames
        self._end(made, context)

    def _ask(self, made: Lie, context: grpc.ServicerContext) -> bytes:
        self._end(made, context)
        return made.frames[0] if made.frames else b""

    def _end(self, made: Lie, context: grpc.ServicerContext) -> None:
        context.set_trailing_metadata(made.trailers)
        if made.code is not grpc.StatusCode.OK:
            context.abort(made.code, made.message)

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.stop(grace=None).wait()


class _Caller:
    """A process that calls, and another in its place where it has ended."""

    def __init__(self, address: str, folder: Path) -> None:
        self._command = [sys.executable, "-m", "fuzz.lied_to", address, str(folder)]
        self._folder = folder
        self._process: subprocess.Popen[str] | None = None

    def call(self, task: dict[str, Any]) -> tuple[str, str]:
        """Have one call made. The outcome, and what is wrong with it; empty where nothing is."""
        process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(task) + "\n")
        process.stdin.flush()
        ready, _, _ = select.select([process.stdout], [], [], _PATIENCE)
        line = process.stdout.readline() if ready else ""
        if line:
            outcome, finding = json.loads(line)
            return outcome, finding
        self._end(kill=True)
        if not ready:
            return "hang", f"no end after {_PATIENCE:g} s"
        return "crash", f"the process ended with status {process.returncode}"

    def _start(self) -> subprocess.Popen[str]:
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self._process

    def _end(self, *, kill: bool = False) -> None:
        process, self._process = self._process, None
        if process is not None:
            if kill:
                process.kill()
            process.communicate()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end()
