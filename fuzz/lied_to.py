"""A caller of a server that lies: `python -m fuzz.lied_to ADDRESS FOLDER`, which reads tasks and writes verdicts, as lines of JSON."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import shutil
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from retraced import AsyncClient, Client, TransformResult
from retraced.cli.app import run
from retraced.cli.failure import ExitCode
from retraced.errors import RetracedError

MOST_SECONDS: Final = 15.0
"""Processor time that one answer may take."""

MOST_BYTES: Final = 384 << 20
"""Memory that one answer may add to the most that this process had so far; no lie has that many."""

_ADDRESS_SPACE: Final = 8 << 30
_TIMEOUT: Final = 20.0
_SHOWN: Final = frozenset("\n")


def main(address: str, folder: Path) -> None:
    """Call the server once for each line of standard input, in a folder that stays empty but for what is asked for."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE, limit))
    with os.fdopen(os.dup(1), "w", buffering=1) as verdicts:
        for line in sys.stdin:
            task = json.loads(line)
            work = folder / "work"
            work.mkdir()
            os.chdir(work)
            peak, used = _peak_bytes(), time.process_time()
            with _captured(folder / "said") as said:
                try:
                    outcome, finding = _call(address, work, said, **task)
                except RetracedError as error:
                    outcome, finding = type(error).__name__, ""
                    # What it says is asked for as well.
                    repr(error), str(error)
                except Exception as error:  # noqa: BLE001 - whatever it is, it is the finding
                    outcome, finding = f"exception {type(error).__name__}", traceback.format_exc(limit=-30)[-20_000:]
            used, grown = time.process_time() - used, _peak_bytes() - peak
            if not finding and used > MOST_SECONDS:
                outcome, finding = "slow", f"{used:.1f} s"
            if not finding and grown > MOST_BYTES:
                outcome, finding = "memory", f"{grown >> 20} MiB"
            os.chdir(folder)
            shutil.rmtree(work)
            verdicts.write(json.dumps([outcome, finding]) + "\n")


def _call(address: str, work: Path, said: Path, how: str, program: str, options: dict[str, Any]) -> tuple[str, str]:
    """Make a call, and use all of what comes of it. The outcome, and what is wrong with it."""
    match how:
        case "client":
            with Client(address, attempts=options.pop("attempts"), timeout=_TIMEOUT) as client:
                with client.transform(program, "cse,dce", lambda event: str(event), **options) as result:
                    _use(result)
                if options.get("validate_only"):
                    repr(client.passes()), repr(client.info())
        case "async client":
            asyncio.run(_call_async(address, program, options))
        case _:
            return _command(address, work, said, program, options["arguments"])
    left = os.listdir(work)
    return how, f"files in the working folder: {left}" if left else ""


async def _call_async(address: str, program: str, options: dict[str, Any]) -> None:
    async with AsyncClient(address, attempts=options.pop("attempts"), timeout=_TIMEOUT) as client:
        with await client.transform(program, "cse,dce", **options) as result:
            _use(result)


def _use(result: TransformResult) -> None:
    str(result), repr(result), repr(result.summary), repr(result.passes)
    for node in result.nodes:
        repr(node)
    with contextlib.suppress(RetracedError):
        result.to_bytes()


def _command(address: str, work: Path, said: Path, program: str, arguments: list[str]) -> tuple[str, str]:
    replaced = [{"PROGRAM": program, "SERVER": address}.get(argument, argument) for argument in arguments]
    status = run(replaced)
    sys.stdout.flush()
    sys.stderr.flush()
    out, err = ((said / name).read_text(errors="replace") for name in ("out", "err"))
    wanted = {arguments[at + 1] for at, argument in enumerate(arguments) if argument in ("-o", "--metadata")}
    left = set(os.listdir(work))
    outcome = f"command {arguments[0]}: {ExitCode(status).name if status in list(ExitCode) else status}"
    if status not in list(ExitCode):
        return outcome, f"an exit status of {status}"
    if left != (wanted if status == ExitCode.OK else set()):
        return outcome, f"files in the working folder: {sorted(left)}, with status {status}"
    for name, text in (("output", out), ("error", err)):
        if "Traceback" in text:
            return outcome, f"a traceback on standard {name}:\n{text[-3_000:]}"
        if odd := [character for character in text if not character.isprintable() and character not in _SHOWN]:
            return outcome, f"standard {name} has {odd[:9]!r}, which a terminal may obey"
    if "--json" in arguments and status == ExitCode.OK:
        json.loads(out, parse_constant=_refuse)
    for path in left & {"nodes.jsonl"}:
        for line in (work / path).read_text().splitlines():
            json.loads(line, parse_constant=_refuse)
    return outcome, ""


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


@contextlib.contextmanager
def _captured(folder: Path) -> Iterator[Path]:
    """Have files in a folder take what is written to standard output and error, by whomever."""
    folder.mkdir(exist_ok=True)
    before = [(number, os.dup(number)) for number in (1, 2)]
    for number, name in ((1, "out"), (2, "err")):
        with (folder / name).open("wb") as file:
            os.dup2(file.fileno(), number)
    try:
        yield folder
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, copy in before:
            os.dup2(copy, number)
            os.close(copy)


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
