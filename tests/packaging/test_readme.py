"""The README is true: its snippets run, against real servers, and its tables say what the code says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import structlog

from retraced import EmbeddedServer, errors
from retraced._status import _BY_REASON
from retraced.cli.failure import exit_code
from retraced_server.passes import catalogue
from retraced_server.service.audit import METHOD, Audit
from retraced_server.service.callers import NO_LIMITS, Callers
from retraced_server.service.calls import Call
from retraced_server.service.command import main as server_command
from retraced_server.service.metrics import Metrics
from tests.service.fake_engine import FakeEngine

README = Path(__file__).parents[2] / "README.md"
NOT_RUN = "<!-- not run by the tests -->\n"
ADDRESS = "127.0.0.1:50051"
BUILT_IN = "retraced"


@dataclass(frozen=True)
class Snippet:
    """A block of code, and the line of the README that it begins at."""

    language: str
    code: str
    line: int


def snippets() -> Iterator[Snippet]:
    """The blocks that are run, in order."""
    text = README.read_text()
    for match in re.finditer(r"^```(python|sh)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        if not text[: match.start()].endswith(NOT_RUN):
            yield Snippet(match[1], match[2], text.count("\n", 0, match.start()) + 1)


def table(heading: str) -> list[list[str]]:
    """The cells of the first table under a heading, without backquotes."""
    section = re.split(r"\n##+ ", README.read_text().partition(f"\n## {heading}\n")[2], maxsplit=1)[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip().strip("`") for cell in row.strip("|").split(" | ")] for row in rows[2:]]


def refusing_new_guards(code: str) -> str:
    """A snippet changed so that new guards are refused wherever it transforms."""
    code = code.replace("retraced transform ", "retraced transform --refuse-new-guards ")
    return re.sub(r"^(.*(?:client\.transform|run_pipeline)\(.*)\)$", r"\1, refuse_new_guards=True)", code, flags=re.MULTILINE)


class Reader:
    """Somebody who follows the README in a shell, in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._exports = ""
        self._address = ADDRESS
        self._servers = ExitStack()

    def run(self, snippet: Snippet) -> None:
        """Runs a snippet; one that transforms once more, with new guards refused."""
        code = snippet.code.replace(ADDRESS, self._address)
        self._run(snippet, code)
        if (refusing := refusing_new_guards(code)) != code:
            self._run(snippet, refusing)

    def _run(self, snippet: Snippet, code: str) -> None:
        if snippet.language == "python":
            if name := re.match(r"# (\w+\.py)\n", code):
                (self._folder / name[1]).write_text(code)
            self._execute(snippet, [sys.executable, "-W", "error", "-c", code])
        elif code.startswith("retraced serve"):
            self._serve(code.split()[2:])
        else:
            self._execute(snippet, ["bash", "-euo", "pipefail", "-c", self._exports + code])
            self._exports += "".join(re.findall(r"^export .*\n", code, re.MULTILINE))

    def stop(self) -> None:
        self._servers.close()

    def _serve(self, arguments: list[str]) -> None:
        """Starts the server in the place of the one that runs, at another address."""
        self._servers.close()
        server = self._servers.enter_context(EmbeddedServer(arguments))
        self._exports = self._exports.replace(self._address, server.address)
        self._address = server.address

    def _execute(self, snippet: Snippet, command: list[str]) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RETRACED_")}
        environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
        ended = subprocess.run(
            command, cwd=self._folder, env=environment, capture_output=True, text=True, check=False, timeout=120
        )
        assert ended.returncode == 0, f"README.md:{snippet.line}:\n{ended.stdout}{ended.stderr}"


@pytest.mark.slow
def test_every_snippet_runs_in_the_order_of_the_text_also_with_new_guards_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Servers that are started here import the reader's modules.
    monkeypatch.chdir(tmp_path)
    reader = Reader(tmp_path)
    try:
        for snippet in snippets():
            reader.run(snippet)
    finally:
        reader.stop()
    made = {path.name for path in tmp_path.iterdir() if path.suffix != ""}
    assert made >= {"model.pt2", "core-aten.pt2", "approximate.pt2", "nodes.jsonl", "request.jsonl", "response.jsonl"}
    assert '"summary"' in (tmp_path / "response.jsonl").read_text()


def test_the_two_commands_stand_before_everything_else() -> None:
    first = re.search(r"^```sh\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)
    assert first is not None
    assert [line.split("#")[0].strip() for line in first[1].splitlines()] == ["make demo", "make test"]


def test_the_passes_are_those_of_the_catalogue() -> None:
    built_in = {name: info for name, info in catalogue().items() if info.provider == BUILT_IN}
    listed = {name.partition("{")[0]: (summary, level) for name, summary, level in table("Passes")}
    assert listed == {name: (info.summary, info.ir_level.value) for name, info in built_in.items()}


def test_the_callers_are_such_as_a_server_takes(tmp_path: Path) -> None:
    example = re.search(r"^```toml\n(\[callers\..*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)
    assert example is not None
    (tmp_path / "callers.toml").write_text(example[1])
    assert Callers.read(tmp_path / "callers.toml", NO_LIMITS).by_certificate({"notebooks.example.com"}) is not None


def test_the_errors_are_those_of_the_wire_and_the_clients_own_with_their_status_family_and_exit_status() -> None:
    families = (errors.RequestInvalid, errors.TransformFailed, errors.ServerUnavailable, errors.LocalError)
    # Each has one reason, but for what stands for those that the client does not know.
    kinds = {
        kind.reason: kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, families) and "reason" in vars(kind) and kind is not errors.ServerError
    }
    assert kinds.items() >= _BY_REASON.items()
    expected = {
        reason: [
            kind.status or "none",
            next(family.__name__ for family in families if issubclass(kind, family)),
            str(int(exit_code(kind("")))),
        ]
        for reason, kind in kinds.items()
    }
    assert {reason: row for reason, *row in table("Errors")} == expected


def test_the_settings_are_the_options_of_the_server() -> None:
    options = {
        option.opts[0]: str(option.to_info_dict()["help"]) for option in server_command.params if hasattr(option, "help")
    }
    options.pop("--version", None)
    listed = {option: (variable, description) for option, variable, _, description in table("Configuration")}
    assert listed.keys() == options.keys()
    for option, (variable, description) in listed.items():
        assert options[option].startswith(description), option
        assert f"[{variable};" in options[option]


def test_the_metrics_are_those_that_are_measured() -> None:
    engine = FakeEngine()
    families = Metrics(engine, lambda: True).registry.collect()
    endings = {"counter": "_total", "info": "_info"}
    measured = {
        f"{family.name}{endings.get(family.type, '')}": [family.type, family.documentation]
        for family in families
        if family.name.startswith("retraced_")
    }
    assert {name: row for name, *row in table("Operating")} == measured


def test_the_fields_of_an_audit_line_are_those_that_are_listed() -> None:
    call = Call("id", "")
    call.record.method = METHOD
    with structlog.testing.capture_logs() as log:
        Audit().ended(call)
    section = README.read_text().partition("**Audit.**")[2].partition("It has\n")[2].partition(".\n")[0]
    assert re.findall(r"`(\w+)`", section) == [name for name in log[0] if name not in ("event", "log_level")]
