"""The syntax of pipeline text: from characters to calls, before any pass is looked up.

    pipeline = pass { "," pass }
    pass     = name [ "{" [ option { "," option } ] "}" ]
    option   = name "=" ( word | string )
    name     = a lower-case letter, then lower-case letters, digits and hyphens
    word     = letters, digits and the characters _ . : / + -
    string   = '"' { any character but " \\ and control characters | '\\"' | '\\\\' } '"'

Blanks, tabs and line ends may stand between any two tokens. What a word means (a number, a truth value, a choice) is
decided by the option's type, in `parse`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from retraced_server.errors import FieldViolation, Reason, RetracedError

MAX_TEXT_BYTES = 64 * 1024
"""The longest pipeline text, in bytes of UTF-8."""

MAX_PASSES = 1000
"""The longest pipeline, in passes."""

FIELD = "spec.pipeline"
"""The field of the request that every error of this package is about."""

_TOKEN = re.compile(
    r"""(?P<blank>[ \t\r\n]+)
      | (?P<word>[A-Za-z0-9_.:/+-]+)
      | (?P<string>"(?:[^"\\\x00-\x1f\x7f-\x9f\ud800-\udfff]|\\["\\])*")
      | (?P<punctuation>[{}=,])""",
    re.VERBOSE,
)
_NAME = re.compile(r"[a-z][a-z0-9-]*")
_BARE = re.compile(r"[A-Za-z0-9_.:/+-]+")
_ESCAPE = re.compile(r"\\(.)")
_EXCERPT = 40
_QUOTED = 80


@dataclass(frozen=True, slots=True)
class OptionSyntax:
    """An option as written. `text` is without quotes and escapes; positions are offsets in the pipeline text."""

    name: str
    position: int
    text: str
    quoted: bool
    value_position: int


@dataclass(frozen=True, slots=True)
class CallSyntax:
    """A pass as written, with its options in the order they were written in."""

    name: str
    position: int
    options: tuple[OptionSyntax, ...]


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    position: int


def parse_syntax(text: str) -> tuple[CallSyntax, ...]:
    """Read pipeline text.

    Raises:
        RetracedError: PIPELINE_SYNTAX where the text is empty, too long, has too many passes or is not of the grammar above.
    """
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > MAX_TEXT_BYTES:
        raise _limit(f"the pipeline text has {size} bytes; at most {MAX_TEXT_BYTES} are allowed", MAX_TEXT_BYTES)
    return _Parser(text).pipeline()


def quote(text: str) -> str:
    """Write a string value as `parse_syntax` reads it: bare where it can be, else quoted."""
    if _BARE.fullmatch(text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def shorten(text: str) -> str:
    """Cut text of the caller's to a length that fits in an error, which travels in HTTP/2 trailers."""
    return text if len(text) <= _QUOTED else text[: _QUOTED - 3] + "..."


def error_at(reason: Reason, description: str, text: str, position: int, **metadata: str) -> RetracedError:
    """Make an error that points at an offset of the pipeline text.

    Args:
        reason: The reason of the error.
        description: What is wrong, without the place.
        text: The pipeline text.
        position: The offset in it, in characters; its length is the end.
        metadata: Further facts beside `line` and `column`, which count from 1.
    """
    before = text[:position]
    line = before.count("\n") + 1
    start = before.rfind("\n") + 1
    end = text.find("\n", position)
    end = len(text) if end < 0 else end
    column = position - start + 1
    place = f"column {column}" if "\n" not in text else f"line {line}, column {column}"
    first, last = max(start, position - _EXCERPT), min(end, position + _EXCERPT)
    lead, tail = "..." * (first > start), "..." * (last < end)
    excerpt = "".join(c if c.isprintable() else " " for c in text[first:last])
    caret = " " * (len(lead) + position - first) + "^"
    message = f"{description} (at {place})"
    return RetracedError(
        reason,
        f"{message}\n  {lead}{excerpt}{tail}\n  {caret}",
        metadata={**metadata, "line": str(line), "column": str(column)},
        violations=[FieldViolation(FIELD, message)],
    )


class _Parser:
    """Recursive descent over the tokens, one method a rule."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = self._scan()
        self._next = next(self._tokens)

    def pipeline(self) -> tuple[CallSyntax, ...]:
        if self._next.kind == "end":
            raise self._error("the pipeline is empty: name at least one pass, for example `retrace`")
        calls = [self._call()]
        while self._take(","):
            if len(calls) == MAX_PASSES:
                raise _limit(f"the pipeline has more than {MAX_PASSES} passes", MAX_PASSES)
            calls.append(self._call())
        if self._next.kind != "end":
            raise self._unexpected("`,` or the end of the pipeline")
        return tuple(calls)

    def _call(self) -> CallSyntax:
        name = self._name("a pass name")
        options: list[OptionSyntax] = []
        if self._take("{") and not self._take("}"):
            options.append(self._option())
            while self._take(","):
                options.append(self._option())
            if not self._take("}"):
                raise self._unexpected("`,` or `}`")
        return CallSyntax(name.text, name.position, tuple(options))

    def _option(self) -> OptionSyntax:
        name = self._name("an option name")
        if not self._take("="):
            raise self._unexpected("`=`")
        value = self._next
        if value.kind not in ("word", "string"):
            raise self._unexpected("a value")
        self._next = next(self._tokens)
        quoted = value.kind == "string"
        text = _ESCAPE.sub(r"\1", value.text[1:-1]) if quoted else value.text
        return OptionSyntax(name.text, name.position, text, quoted, value.position)

    def _name(self, what: str) -> _Token:
        token = self._next
        if token.kind != "word":
            raise self._unexpected(what)
        if not _NAME.fullmatch(token.text):
            rule = "lower-case letters, digits and hyphens, a letter first"
            raise self._error(f"`{shorten(token.text)}` is not {what}: names have {rule}")
        self._next = next(self._tokens)
        return token

    def _take(self, punctuation: str) -> bool:
        if self._next.kind != "punctuation" or self._next.text != punctuation:
            return False
        self._next = next(self._tokens)
        return True

    def _scan(self) -> Iterator[_Token]:
        position = 0
        while position < len(self._text):
            match = _TOKEN.match(self._text, position)
            if match is None:
                raise self._illegal(position)
            kind = match.lastgroup
            assert kind is not None
            if kind != "blank":
                yield _Token(kind, match.group(), position)
            position = match.end()
        while True:
            yield _Token("end", "", position)

    def _illegal(self, position: int) -> RetracedError:
        character = self._text[position]
        if character == '"':
            description = 'a string is not closed, or holds a control character or an escape other than \\" and \\\\'
        else:
            description = f"the character {character!a} has no meaning here; values with such characters are quoted"
        return error_at(Reason.PIPELINE_SYNTAX, description, self._text, position)

    def _unexpected(self, expected: str) -> RetracedError:
        found = "the end of the text" if self._next.kind == "end" else f"`{shorten(self._next.text)}`"
        return self._error(f"expected {expected}, found {found}")

    def _error(self, description: str) -> RetracedError:
        return error_at(Reason.PIPELINE_SYNTAX, description, self._text, self._next.position)


def _limit(message: str, limit: int) -> RetracedError:
    return RetracedError(
        Reason.PIPELINE_SYNTAX, message, metadata={"limit": str(limit)}, violations=[FieldViolation(FIELD, message)]
    )
