"""Texts of others, wherever they come from and wherever they go: they command no terminal, end no command, and spoil no JSON."""

from __future__ import annotations

import copy
import io
import json
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.progress import Progress, TextColumn
from rich.table import Table
from rich.text import Text

from retraced.cli.console import EscapingConsole
from retraced.cli.inspect import report
from retraced.cli.session import Session, plain
from retraced.errors import ProgramInvalid
from retraced.inspection import program_info
from retraced.v1 import graph_transform_pb2 as pb
from retraced.v1 import passes_pb2
from retraced_pt2.errors import FormatError
from retraced_pt2.text_form import program_text
from tests.cli.support import Ended, Run, end, start
from tests.client import archives, fake_server
from tests.client.fake_server import Behaviour, FakeServer, accepted, answers, replies
from tests.client.lies import HOSTILE, LIES, error, filled, told_bytes

# What rich makes on a terminal: styles, and the cursor of progress.
_OF_RICH = re.compile(r"\x1b\[[0-9;]*[mAK]|\x1b\[\?25[lh]|\r(?=\x1b\[)|(?<=\x1b\[2K)\r")
_Response = pb.TransformGraphResponse


@pytest.fixture(params=["pipe", "terminal", "json"])
def shown(request: pytest.FixtureRequest, retraced: Run, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ended]:
    """Runs the command, and gives what it showed, once that is known to be harmless."""
    if request.param == "terminal":
        monkeypatch.setenv("TTY_COMPATIBLE", "1")
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("TERM", "xterm-256color")
        monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str | Path) -> Ended:
        ended = retraced(*arguments, *(["--json"] if request.param == "json" else []))
        assert "Traceback" not in ended.err
        for text in (ended.out, ended.err):
            # A terminal is hidden nothing by rich, nor by us.
            assert "\x1b[8m" not in text
            assert all(character.isprintable() or character in "\n\t" for character in _OF_RICH.sub("", text))
        if request.param == "json":
            json.loads(ended.out, parse_constant=pytest.fail)
        else:
            assert _OF_RICH.search(ended.out) is None or request.param == "terminal"
        return ended

    return run


def transformed() -> Behaviour:
    """A server that fills every field of its answer with hostile text."""
    return replies(
        accepted(queue_position=1),
        _Response(progress=pb.Progress(stage=pb.STAGE_QUEUED, done=1 << 60)),
        *(
            _Response(**{kind: filled(getattr(_Response(), kind))})
            for kind in ("pass_started", "pass_finished", "node_metadata")
        ),
        _Response(summary=filled(pb.Summary(modified=True))),
    )


def test_an_answer_of_hostile_texts_is_shown(shown: Callable[..., Ended], archive: Path) -> None:
    with FakeServer(transformed()) as server:
        arguments = ("transform", archive, "-p", "cse", "--metadata", archive.with_name("n.jsonl"), "--server", server.address)
        ended = shown(*arguments)
    assert ended.code == 0, ended.err
    assert ended.out.count("owned") >= 6
    assert "owned" in json.loads(archive.with_name("n.jsonl").read_text())["stack_trace"]


def test_a_program_is_said_to_be_valid_in_hostile_texts(shown: Callable[..., Ended], archive: Path) -> None:
    summary = filled(pb.Summary())
    summary.ClearField("output")
    with FakeServer(replies(accepted(), _Response(summary=summary))) as server:
        ended = shown("transform", archive, "-p", "cse", "--validate-only", "--server", server.address)
    assert ended.code == 0, ended.err
    assert "owned" in ended.out


@pytest.mark.parametrize("debug", [[], ["--debug"]])
@pytest.mark.parametrize("reason", ["PASS_FAILED", "PASS_UNKNOWN", f"BAD{HOSTILE}"])
def test_an_error_of_hostile_texts_is_shown(
    shown: Callable[..., Ended], archive: Path, reason: str, debug: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # With --debug a traceback is wanted; it holds the message.
    monkeypatch.setattr("traceback.format_exc", lambda: f"Stack: {HOSTILE}\n")
    with FakeServer(error(reason)) as server:
        ended = shown("transform", archive, "-p", "cse", "-o", "x.pt2", "--server", server.address, *debug)
    assert ended.code in (1, 2)
    assert ended.err.count("owned") >= 8
    assert ("Stack: " in ended.err) is bool(debug)


@pytest.mark.parametrize("arguments", [["passes"], ["passes", HOSTILE], ["passes", "decompose"], ["info"]], ids=str)
def test_a_server_that_describes_itself_in_hostile_texts_is_shown(
    shown: Callable[..., Ended], arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake_server, "PASSES", [filled(passes_pb2.Pass()), passes_pb2.Pass(name=f"decompose{HOSTILE}")])
    monkeypatch.setattr(fake_server, "INFO", filled(pb.GetServerInfoResponse()))
    if HOSTILE in arguments and "\x00" in HOSTILE:
        # A command line holds no NUL, and the pass that is described is named so.
        monkeypatch.setattr(fake_server, "PASSES", [filled(passes_pb2.Pass())])
    with FakeServer(answers(b"")) as server:
        ended = shown(*arguments, "--server", server.address)
    assert "owned" in ended.out + ended.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["inspect", f"/absent{HOSTILE}"],
        ["transform", f"a{HOSTILE}", "-p", "cse", f"--{HOSTILE}"],
        [HOSTILE],
        ["info", "--server", HOSTILE],
    ],
    ids=str,
)
def test_a_command_line_of_hostile_texts_is_shown(shown_as_text: Run, arguments: list[str]) -> None:
    ended = shown_as_text(*(argument.replace("\x00", "") for argument in arguments))
    assert ended.code in (2, 3)
    assert "owned" in ended.err


@pytest.fixture
def shown_as_text(retraced: Run) -> Run:
    def run(*arguments: str | Path) -> Ended:
        ended = retraced(*arguments)
        assert "Traceback" not in ended.err
        assert all(character.isprintable() or character in "\n\t" for character in ended.out + ended.err)
        return ended

    return run


@pytest.mark.parametrize("name", [HOSTILE, "\ud7ff\u202etxt"])
def test_an_archive_whose_records_have_hostile_names_is_refused_as_a_server_does(
    name: str, shown: Callable[..., Ended], tmp_path: Path
) -> None:
    path = tmp_path / "model.pt2"
    path.write_bytes(archives.packed({**archives.records(), f"extra/{name}": b"x"}))
    ended = shown("inspect", path)
    assert ended.code == 2
    assert "whose name is not printable" in ended.out + ended.err
    path.write_bytes(archives.packed({f"models/{HOSTILE}.json": b"{"}))
    assert shown("inspect", path).code == 2


_VALUES: tuple[Any, ...] = (
    HOSTILE,
    5,
    1.5,
    float("nan"),
    float("inf"),
    True,
    None,
    [],
    {},
    [HOSTILE],
    {HOSTILE: HOSTILE},
    1 << 300,
)


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value in some JSON; of lists only the first two entries."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    for key, item in items:
        yield from _places(item, (*path, key))


def _changed_programs() -> Iterator[tuple[str, bytes]]:
    """Model records, each with another value in the place of one, or with another key."""
    program = json.loads(archives.records()[archives.MODEL_RECORD])
    for path in _places(program):
        for value in (*_VALUES, KeyError):
            holder: Any = {"program": copy.deepcopy(program)}
            whole = holder
            *before, last = ("program", *path)
            for key in before:
                holder = holder[key]
            if value is not KeyError:
                holder[last] = value
            elif path and isinstance(last, str):
                holder[HOSTILE] = holder.pop(last)
            yield f"{path}: {value!r}", json.dumps(whole["program"]).encode()


def test_a_program_with_anything_in_the_place_of_anything_is_shown_or_refused() -> None:
    shown = 0
    for what, model in _changed_programs():
        try:
            info = program_info(model)
        except ProgramInvalid:
            continue
        if "owned" not in json.dumps(plain(info), allow_nan=False):
            continue
        file = io.StringIO()
        Session(out=EscapingConsole(file=file, markup=False, width=200)).print(*report("model.pt2", 1, (), info))
        assert all(character.isprintable() or character == "\n" for character in file.getvalue()), what
        shown += 1
    assert shown > 20


def test_a_program_with_anything_in_the_place_of_anything_is_printed_or_refused() -> None:
    printed = 0
    for what, model in _changed_programs():
        try:
            text = program_text(model)
        except FormatError:
            continue
        assert all(character.isprintable() or character == "\n" for character in text), what
        printed += "owned" in text
    assert printed > 10


@pytest.mark.slow
@pytest.mark.parametrize("name", LIES)
def test_no_lie_of_a_server_ends_the_command_in_a_traceback(
    shown: Callable[..., Ended], archive: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retraced._allowance._OUTPUT_BYTES", 8 << 20)
    monkeypatch.setattr("retraced._allowance._TOLD_BYTES", told_bytes(name))
    # What a server may tell grows with what it is sent.
    archive.write_bytes(bytes(1000))
    lie = LIES[name]
    arguments = ["--metadata", str(archive.with_name("n.jsonl"))] if lie.ask.get("node_metadata") else []
    arguments += [] if lie.ask else ["-o", str(archive.with_name("o.pt2"))]
    arguments += ["--validate-only"] if lie.ask.get("validate_only") else []
    with FakeServer(lie.behaviour) as server:
        ended = shown("transform", archive, "-p", "cse", "--server", server.address, *arguments)
    assert (ended.code == 0) is not lie.refused
    assert not archive.with_name("o.pt2").exists()


def test_nothing_that_is_printed_gets_past_the_console() -> None:
    with open("/dev/null", "w") as nowhere:
        console = EscapingConsole(file=nowhere, force_terminal=True, markup=False, width=60, color_system="256")
        with console.capture() as captured:
            rows = Table(HOSTILE, HOSTILE, title=HOSTILE, caption=HOSTILE)
            rows.add_row(HOSTILE, Text(HOSTILE))
            console.print(HOSTILE, Text(HOSTILE, style="bold"), rows)
            console.out(HOSTILE)
            console.rule(HOSTILE)
            with Progress(TextColumn("{task.description}", markup=False), console=console, auto_refresh=False) as progress:
                progress.add_task(HOSTILE)
                progress.refresh()
    text = captured.get()
    assert "\x1b[8m" not in text
    rest = _OF_RICH.sub("", text)
    assert rest.count("owned") >= 7
    assert all(character.isprintable() or character in "\n\t" for character in rest)


@pytest.mark.slow
def test_a_shell_types_no_command_of_a_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    option = passes_pb2.PassOption
    described = passes_pb2.Pass(
        name="cse",
        summary=f"Merge.\nplain\n{HOSTILE}",
        options=[
            option(name="a", type=passes_pb2.OPTION_TYPE_CHOICE, choices=["x", "y;reboot", "$(reboot)"]),
            option(name="b`reboot`"),
        ],
    )
    evil = [described, *(passes_pb2.Pass(name=name) for name in ("cs;reboot", "cs\nplain\nreboot", f"cs{HOSTILE}", "cs e"))]
    monkeypatch.setattr(fake_server, "PASSES", evil)
    with FakeServer(answers(b"")) as server:
        for incomplete, expected in (("c", "cse"), ("cse{", "cse{a="), ("cse{a=", "cse{a=x")):
            # For zsh an item is three lines: its kind, what is typed, and what is said of it.
            for shell, count, current in (("bash", 1, "4"), ("zsh", 3, "4"), ("fish", 1, incomplete)):
                words = shlex.join(["retraced", "transform", "x", "-p", incomplete])
                variables = {"_RETRACED_COMPLETE": f"{shell}_complete", "COMP_WORDS": words, "COMP_CWORD": current}
                ended = end(start(env={**variables, "RETRACED_SERVER": server.address}))
                assert (ended.code, ended.err) == (0, "")
                assert len(ended.out.splitlines()) == count, ended.out
                assert expected in ended.out
                assert all(character.isprintable() or character in "\n\t" for character in ended.out)
