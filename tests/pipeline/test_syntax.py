"""The grammar of pipeline text, its limits, and where errors point."""

import subprocess
import sys

import pytest

from retraced_server.errors import Reason, RetracedError
from retraced_server.pipeline.syntax import MAX_PASSES, MAX_TEXT_BYTES, CallSyntax, OptionSyntax, parse_syntax, quote


def failure(text: str) -> RetracedError:
    with pytest.raises(RetracedError) as caught:
        parse_syntax(text)
    assert caught.value.reason is Reason.PIPELINE_SYNTAX
    assert [violation.field for violation in caught.value.violations] == ["spec.pipeline"]
    return caught.value


def test_calls_know_their_positions() -> None:
    assert parse_syntax('a, b2-c{x = 1, y="p\\"q"}') == (
        CallSyntax("a", 0, ()),
        CallSyntax("b2-c", 3, (OptionSyntax("x", 8, "1", False, 12), OptionSyntax("y", 15, 'p"q', True, 17))),
    )


@pytest.mark.parametrize(
    ("text", "column", "words"),
    [
        ("", 1, "empty"),
        ("  \n", 1, "empty"),
        ("cse,", 5, "expected a pass name, found the end"),
        (",cse", 1, "expected a pass name, found `,`"),
        ("cse,,dce", 5, "expected a pass name, found `,`"),
        ("cse dce", 5, "expected `,` or the end of the pipeline, found `dce`"),
        ("cse}", 4, "expected `,` or the end of the pipeline, found `}`"),
        ("cse{", 5, "expected an option name"),
        ("cse{,}", 5, "expected an option name"),
        ("cse{a=1,}", 9, "expected an option name"),
        ("cse{a=1 b=2}", 9, "expected `,` or `}`, found `b`"),
        ("cse{a}", 6, "expected `=`"),
        ("cse{a=}", 7, "expected a value, found `}`"),
        ("cse{a=1", 8, "expected `,` or `}`, found the end"),
        ("cse{a={}}", 7, "expected a value"),
        ("CSE", 1, "not a pass name"),
        ("view_copy", 1, "not a pass name"),
        ("-cse", 1, "not a pass name"),
        ("cse{Level=1}", 5, "not an option name"),
        ('"cse"', 1, "expected a pass name"),
        ('cse{a="b}', 7, "not closed"),
        ('cse{a="b\\n"}', 7, "escape"),
        ('cse{a="b\nc"}', 7, "control character"),
        ("cse;dce", 4, "';'"),
        ("cse\u00a0,dce", 4, "\\xa0"),
        ("cse,\ud800", 5, "\\ud800"),
    ],
)
def test_error_says_what_and_where(text: str, column: int, words: str) -> None:
    error = failure(text)
    assert words in error.message
    assert int(error.metadata["column"]) == column or text.isspace()


def test_excerpt_points_at_the_column() -> None:
    assert failure("cse,,dce").message.split("\n")[1:] == ["  cse,,dce", "      ^"]


def test_excerpt_of_several_lines_shows_the_one_at_fault() -> None:
    error = failure("cse,\ndce,\n  fuse{a=}\n,cse")
    assert error.message.split("\n") == ["expected a value, found `}` (at line 3, column 10)", "    fuse{a=}", "           ^"]
    assert error.metadata == {"line": "3", "column": "10"}


def test_excerpt_of_a_long_line_is_cut_around_the_fault() -> None:
    _, excerpt, caret = failure("a," * 500 + "?" + ",b" * 500).message.split("\n")
    assert excerpt[caret.index("^")] == "?"
    assert excerpt.startswith("  ...")
    assert excerpt.endswith("...")
    assert len(excerpt) < 100


def test_longest_pipeline_is_read_and_a_longer_one_refused() -> None:
    assert len(parse_syntax(",".join(["a"] * MAX_PASSES))) == MAX_PASSES
    assert failure(",".join(["a"] * (MAX_PASSES + 1))).metadata == {"limit": "1000"}


def test_longest_text_is_read_and_a_longer_one_refused() -> None:
    assert parse_syntax("a".ljust(MAX_TEXT_BYTES))[0].name == "a"
    assert failure("a".ljust(MAX_TEXT_BYTES + 1)).metadata == {"limit": "65536"}
    assert failure('a{b="' + "\u00e9" * (MAX_TEXT_BYTES // 2) + '"}').metadata == {"limit": "65536"}


@pytest.mark.parametrize("value", ["", "plain", "aten::mm.default", "two words", 'a"b\\c', "\u00e9", "a,b", "x=1", "{}"])
def test_quoted_value_reads_back(value: str) -> None:
    (call,) = parse_syntax("a{b=" + quote(value) + "}")
    assert call.options[0].text == value


def test_pipeline_package_loads_no_torch() -> None:
    code = "import retraced_server.pipeline.parse, sys; sys.exit('torch' in sys.modules or 'grpc' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
