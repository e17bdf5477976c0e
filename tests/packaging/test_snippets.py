"""The snippets of the README and of the pages of `docs/` run, in the order of the pages, against real servers."""

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

from retraced import EmbeddedServer
from tests.support.pages import ROOT, documents

NOT_RUN = "<!-- not run by the tests -->\n"
ADDRESS = "127.0.0.1:50051"


@dataclass(frozen=True)
class Snippet:
    """A block of code, and the page and the line that it begins at."""

    language: str
    code: str
    page: Path
    line: int


def snippets() -> Iterator[Snippet]:
    """The blocks that are run, in order."""
    for page in documents():
        text = page.read_text()
        for match in re.finditer(r"^```(python|sh)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            if not text[: match.start()].endswith(NOT_RUN):
                yield Snippet(match[1], match[2], page, text.count("\n", 0, match.start()) + 1)


def refusing_new_guards(code: str) -> str:
    """A snippet changed so that new guards are refused wherever it transforms."""
    code = code.replace("retraced transform ", "retraced transform --refuse-new-guards ")
    return re.sub(r"^(.*(?:client\.transform|run_pipeline)\(.*)\)$", r"\1, refuse_new_guards=True)", code, flags=re.MULTILINE)


class Reader:
    """Somebody who follows the pages in a shell, in a folder of their own."""

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
        assert ended.returncode == 0, f"{snippet.page.relative_to(ROOT)}:{snippet.line}:\n{ended.stdout}{ended.stderr}"


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
