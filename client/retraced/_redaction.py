"""Redact what a caller keeps at home, sample inputs, guards, stack traces, from what is sent, and restore it in what comes back.

In their places go the empty record that torch writes for no sample inputs, and tokens: strings that mean nothing to the server, which it
passes on, also to nodes that a pass makes. They are drawn for each call, so nobody can have put them anywhere before.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any, Final, TypeVar

from retraced._options import KeptAtHome
from retraced._output import Output
from retraced._source import Source
from retraced._source_archive import SourceArchive
from retraced._splice import Spliced
from retraced._user_inputs import same_user_inputs
from retraced.errors import ArchiveInvalid, FieldViolation, OutputUnsafe, ProgramInvalid, RetracedError
from retraced.nodes import NodeMetadata
from retraced.program import ProgramInfo
from retraced.reports import PassReport, Summary
from retraced_pt2.archive import Archive
from retraced_pt2.errors import FormatError
from retraced_pt2.record_names import MODEL, SAMPLE_INPUTS

_FRAME: Final = re.compile(r'^\s*File "(?P<file>[^"]+)", line (?P<line>\d+)', re.MULTILINE)
_DROPPED: Final = "the sample inputs were dropped, since the program takes other inputs now"
# Characters that are put back into a server's texts at most: a token is short, and what it stands for may be long.
_MOST_PUT_BACK: Final = 64 << 20
# What a record of JSON that is no program makes of the code below.
_NO_PROGRAM: Final = (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError)

_Error = TypeVar("_Error", bound=RetracedError)


class Redaction:
    """Redact what one call keeps at home, and restore it in the output.

    Args:
        source: The caller's archive.
        kept: What is kept.

    Attributes:
        upload: What is sent instead; `source` itself where nothing is kept.

    Raises:
        ArchiveInvalid: The archive cannot be read, so nothing can be taken out of it.
        ProgramInvalid: Its program cannot be read.
        SourceNotReadable: The source cannot be read.
    """

    def __init__(self, source: Source, kept: Collection[KeptAtHome]) -> None:
        self.upload = source
        self._kept = frozenset(kept)
        self._mark = f"kept-at-home-{secrets.token_hex(8)}"
        # By number: what a token stands for. By the whole text that was sent, likewise.
        self._numbered: list[str] = []
        self._whole: dict[str, str] = {}
        self._tokens: dict[str, str] = {}
        self._left = _MOST_PUT_BACK
        self._sample_inputs = b""
        self._program: dict[str, Any] = {}
        if self._kept:
            self.upload = self._taken_out(source)

    def restored(self, output: Output, request_id: str) -> tuple[Spliced, tuple[str, ...]]:
        """Return an output with everything in its place again, and what the caller should know of it. It is still to be checked.

        Raises:
            OutputUnsafe: It cannot be read.
        """
        try:
            archive = Archive(output)
            records, name = archive.records, archive.find_program()
            program = self._put_back(archive.read(MODEL.format(name)))
            replaced = {MODEL.format(name): json.dumps(program).encode()}
            sample_inputs = SAMPLE_INPUTS.format(name)
            remarks: tuple[str, ...] = ()
            if self._sample_inputs and records[sample_inputs].size == 0:
                if same_user_inputs(self._program, program):
                    replaced[sample_inputs] = self._sample_inputs
                else:
                    remarks = (_DROPPED,)
        except (FormatError, *_NO_PROGRAM) as error:
            raise OutputUnsafe(
                f"what is kept at home cannot be put back into the server's output: {error}", request_id=request_id
            ) from error
        return Spliced(output, records, replaced), remarks

    def text(self, text: str) -> str:
        """Return a text of the server, with what its tokens stand for: guards, and the place in the source that a stack trace ends in."""
        return re.sub(rf"{self._mark}-(\d{{1,9}})(:1)?", self._meant, text) if self._mark in text else text

    def node(self, node: NodeMetadata) -> NodeMetadata:
        """Return a node's metadata with its own stack trace."""
        return replace(node, stack_trace=self._whole.get(node.stack_trace, node.stack_trace))

    def report(self, report: PassReport) -> PassReport:
        """Return a pass's report."""
        return replace(report, remarks=self._texts(report.remarks), new_guards=self._texts(report.new_guards))

    def summary(self, summary: Summary) -> Summary:
        """Return a summary."""
        output = None if summary.output is None else self._info(summary.output)
        return replace(summary, input=self._info(summary.input), output=output, remarks=self._texts(summary.remarks))

    def error(self, error: _Error) -> _Error:
        """Return an error, which is changed."""
        error.message = self.text(error.message)
        error.args = (error.message,)
        error.metadata = {key: self.text(value) for key, value in error.metadata.items()}
        error.violations = tuple(FieldViolation(found.field, self.text(found.description)) for found in error.violations)
        return error

    def _info(self, info: ProgramInfo) -> ProgramInfo:
        return replace(info, guards=self._texts(info.guards))

    def _texts(self, texts: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(self.text, texts))

    def _taken_out(self, source: Source) -> Source:
        archive = SourceArchive(source)
        name = archive.program_name
        model, sample_inputs = MODEL.format(name), SAMPLE_INPUTS.format(name)
        data = archive.read(model)
        if data is None or sum(record.startswith("models/") for record in archive.records) > 1:
            raise ArchiveInvalid(f"{source.name} is no archive of one program, so nothing can be kept at home of it")
        replaced = {}
        if "sample-inputs" in self._kept and sample_inputs in archive.records:
            self._sample_inputs = archive.read(sample_inputs) or b""
            self._program = _parsed(source, data)
            replaced[sample_inputs] = b""
        if self._kept & {"guards", "stack-traces"}:
            hidden = _parsed(source, data, self._hide if "stack-traces" in self._kept else None)
            if "guards" in self._kept:
                hidden["guards_code"] = [self._token(guard) for guard in hidden.get("guards_code", ())]
            replaced[model] = json.dumps(hidden).encode()
        return Spliced(source, archive.records, replaced)

    def _hide(self, value: dict[str, Any]) -> dict[str, Any]:
        trace = value.get("stack_trace")
        if isinstance(trace, str) and trace:
            # As a stack trace has it, so that errors name the place; without one they would not.
            value["stack_trace"] = self._token(trace, 'File "{}", line 1' if _place(trace) else "{}")
        return value

    def _token(self, text: str, form: str = "{}") -> str:
        found = self._tokens.get(text)
        if found is None:
            found = self._tokens[text] = form.format(f"{self._mark}-{len(self._numbered)}")
            self._numbered.append(text)
            self._whole[found] = text
        return found

    def _put_back(self, model: bytes) -> Any:
        def shown(value: dict[str, Any]) -> dict[str, Any]:
            trace = value.get("stack_trace")
            if isinstance(trace, str):
                value["stack_trace"] = self._whole.get(trace, trace)
            return value

        program = json.loads(model.decode(), object_hook=shown)
        if "guards_code" in program:
            program["guards_code"] = [self._whole.get(guard, guard) for guard in program["guards_code"]]
        return program

    def _meant(self, match: re.Match[str]) -> str:
        number = int(match[1])
        text = self._numbered[number] if number < len(self._numbered) else None
        if text is None or len(text) > self._left:
            return match[0]
        self._left -= len(text)
        return _place(text) if match[2] else text


def _place(trace: str) -> str:
    """Return the place in the caller's own source that a stack trace ends in, `FILE:LINE`, as the server finds it; empty where none is."""
    frames = [frame for frame in _FRAME.finditer(trace) if not frame["file"].startswith("<")]
    own = [frame for frame in frames if "site-packages/torch/" not in frame["file"].replace("\\", "/")]
    frame = next(reversed(own or frames), None)
    return "" if frame is None else f"{frame['file']}:{frame['line']}"


def _parsed(source: Source, model: bytes, hook: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    try:
        return json.loads(model, object_hook=hook)
    except _NO_PROGRAM as error:
        raise ProgramInvalid(f"{source.name} holds a program that is not JSON: {error}") from error
