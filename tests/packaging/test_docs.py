"""The pages of `docs/` are true: their tables say what the code says, and all that they name and link to is there."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from fuzz.__main__ import main as fuzzers
from retraced import errors
from retraced._status import _BY_REASON
from retraced.cli.failure import exit_code
from retraced_server.passes import catalogue
from retraced_server.service.audit import METHOD, Audit
from retraced_server.service.callers import NO_LIMITS, Callers
from retraced_server.service.calls import Call
from retraced_server.service.command import main as server_command
from retraced_server.service.metrics import Metrics
from tests.service.fake_engine import FakeEngine
from tests.support.pages import DOCS, ROOT, documents, page, table
from tools.pass_reference import PAGE, make_page

BUILT_IN = "retraced"
_WHEEL = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
PACKAGES = [ROOT / package for package in _WHEEL["packages"]]
# What the architecture names besides classes, methods and functions of ours: of torch and msgspec, messages, and a hook and an argument.
_OTHER_NAMES = {"FakeTensor", "Raw", "JobEvent", "TransformGraphResponse", "call_operator", "keep_at_home"}


def defined() -> Iterator[str]:
    """Names of the classes, their methods, and the functions of all packages."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    for path in (path for package in PACKAGES for path in package.rglob("*.py")):
        for found in ast.parse(path.read_text()).body:
            if isinstance(found, (ast.ClassDef, *functions)):
                yield found.name
            if isinstance(found, ast.ClassDef):
                yield from (f"{found.name}.{part.name}" for part in found.body if isinstance(part, functions))


def test_the_passes_are_those_of_the_catalogue() -> None:
    built_in = {name: info for name, info in catalogue().items() if info.provider == BUILT_IN}
    listed = {name.partition("{")[0]: (summary, level) for name, summary, level in table(page("passes"))}
    assert listed == {name: (info.summary, info.ir_level.value) for name, info in built_in.items()}


def test_the_callers_are_such_as_a_server_takes(tmp_path: Path) -> None:
    example = re.search(r"^```toml\n(\[callers\..*?)^```$", page("serving"), re.MULTILINE | re.DOTALL)
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
    assert {reason: row for reason, *row in table(page("errors"))} == expected


def test_the_settings_are_the_options_of_the_server() -> None:
    options = {
        option.opts[0]: str(option.to_info_dict()["help"]) for option in server_command.params if hasattr(option, "help")
    }
    options.pop("--version", None)
    listed = {option: (variable, description) for option, variable, _, description in table(page("settings"))}
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
    assert {name: row for name, *row in table(page("operating"))} == measured


def test_the_fields_of_an_audit_line_are_those_that_are_listed() -> None:
    call = Call("id", "")
    call.record.method = METHOD
    with structlog.testing.capture_logs() as log:
        Audit().ended(call)
    section = page("operating").partition("\n## Audit\n")[2].partition("It has\n")[2].partition(".\n")[0]
    assert re.findall(r"`(\w+)`", section) == [name for name in log[0] if name not in ("event", "log_level")]


def test_the_reference_of_the_passes_is_what_the_registry_says() -> None:
    assert PAGE.read_text() == make_page(), "python -m tools.pass_reference writes it"


@pytest.mark.parametrize("document", documents(), ids=lambda path: path.name)
def test_what_a_page_links_to_is_there(document: Path) -> None:
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)", document.read_text())
    assert [link for link in links if not (document.parent / link).exists()] == []


def test_every_page_is_one_that_is_read() -> None:
    assert {path for path in documents() if path.parent == DOCS} >= {
        path for path in DOCS.glob("*.md") if "```{include}" not in path.read_text()
    }


@pytest.mark.parametrize("document", [DOCS / "architecture.md", ROOT / "SECURITY.md"], ids=lambda path: path.name)
def test_the_files_and_folders_that_are_named_are_there(document: Path) -> None:
    named = re.findall(r"(?<![\w/])((?:\w+/)+(?:\w+\.py)?|\w+\.py)(?![\w/])", document.read_text())
    assert len(named) > 40
    roots = (ROOT, *PACKAGES, *(package.parent for package in PACKAGES))
    assert [name for name in named if not any((root / name).exists() for root in roots)] == []


def test_the_fuzzers_that_hold_a_promise_are_those_that_there_are() -> None:
    rows = re.findall(r"^\|.*\| ([^|]*) \|$", (ROOT / "SECURITY.md").read_text().split("\n## How\n")[0], re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == set(fuzzers.commands) - {"replay", "soak"}


def test_the_classes_and_functions_of_the_architecture_are_there() -> None:
    named = set(re.findall(r"`((?:[A-Z]\w*[a-z]\w*|[a-z]+(?:_[a-z]+)+)(?:\.\w+)?)`", page("architecture")))
    assert len(named) > 50
    assert named - set(defined()) - _OTHER_NAMES == set()


@pytest.mark.parametrize("module", ["retraced", "retraced_server.passes", "retraced_server.retrace"])
def test_every_public_name_is_in_the_api_reference(module: str) -> None:
    reference = "".join(path.read_text() for path in (DOCS / "api").glob("*.rst"))
    names = {f"{module}.{name}" for name in importlib.import_module(module).__all__}
    of_torch = {f"{module}.PassBase", f"{module}.PassResult"}
    assert [name for name in names - of_torch if not re.search(rf"{re.escape(name)}\b", reference)] == []


def test_the_changes_name_the_version() -> None:
    assert f" {importlib.metadata.version('retraced')}\n" in (ROOT / "CHANGELOG.md").read_text()
