"""Names of modules and records: what the server's reader takes, the client's check takes, and torch does the right thing with."""

from __future__ import annotations

import ast
import io
import keyword
import unicodedata
import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import nn
from torch.fx.graph import _format_target

from retraced._source import BytesSource
from retraced.checks.names import Paths
from retraced.checks.output import OutputCheck
from retraced_pt2 import limits
from retraced_pt2.errors import FormatError
from retraced_pt2.files import DescriptorBytes
from retraced_pt2.zip_reader import read_entries
from retraced_server.errors import Reason, RetracedError
from retraced_server.passes import run_pipeline
from retraced_server.program import names
from tests.program.archives import read_bytes, saved, written, zipped

_LETTERS = st.sampled_from("""ab.'"\\`() ,{}[]#;\n\r\t\0é\uff46\u00a0\u2028ntxuUN08_-$%/:""")
_PATHS = st.one_of(st.text(_LETTERS, min_size=1, max_size=12), st.text(max_size=12))
# The client refuses names that Python itself has; what the server writes of them is the caller's own.
_DUNDER = "__"


def _by_server(path: str) -> bool:
    try:
        names.check_path(path)
    except RetracedError:
        return False
    return True


def _by_client(path: str) -> bool:
    try:
        Paths(()).check(path)
    except FormatError:
        return False
    return True


def _in_source(path: str) -> list[str] | None:
    """The attributes that torch's source for a path takes, from the last to the first; None where it does something else."""
    try:
        with warnings.catch_warnings():
            # Of a backslash that begins no escape.
            warnings.simplefilter("ignore")
            node = ast.parse(_format_target("self", path), mode="eval").body
    except (SyntaxError, ValueError, UnicodeError):
        return None
    taken = []
    while not isinstance(node, ast.Name):
        match node:
            case ast.Attribute(value, name):
                taken.append(name)
            case ast.Call(ast.Name("getattr"), [value, ast.Constant(str(name))], []):
                taken.append(name)
            case _:
                return None
        node = value
    return taken if node.id == "self" else None


@given(_PATHS)
@example("lin.('user', 'rates', 'movie').weight")
@example("it's")
@example("a\\d")
@example("a\\.b")
@example('a"), exit(), ("')
@example('a\\", exit(), "')
@example("x" * 16_384)
@example("x" * 16_385)
def test_server_and_client_take_the_same_names_and_torch_finds_by_them_what_they_name(path: str) -> None:
    assert _DUNDER in path or _by_server(path) is _by_client(path)
    if _by_server(path) and not any(map(_is_changed_by_python, path.split("."))):
        assert _in_source(path) == path.split(".")[::-1]


def _is_changed_by_python(part: str) -> bool:
    """Whether Python has a keyword of that name, or writes it in another way: torch then finds no such module, and runs nothing."""
    return part.isidentifier() and (keyword.iskeyword(part) or unicodedata.normalize("NFKC", part) != part)


@given(_PATHS)
def test_names_that_are_printable_are_refused_only_where_torch_would_run_something_else(path: str) -> None:
    if not _by_server(path) and path.isprintable() and len(path) <= limits.LONGEST_NAME:
        assert _in_source(path) != path.split(".")[::-1]


class _Named(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.add_module(name, nn.Linear(4, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        (module,) = self.children()
        return torch.nn.functional.relu(torch.as_tensor(module(x)))


class _Nested(nn.Module):
    def __init__(self, depth: int) -> None:
        super().__init__()
        self.a_rather_long_name_of_a_submodule_for_this_test: nn.Module = _Nested(depth - 1) if depth else nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(self.a_rather_long_name_of_a_submodule_for_this_test(x)).relu()


@pytest.mark.parametrize(
    "module",
    [*map(_Named, ["it's", "('user', 'rates', 'movie')", "a b", "a`b", "a{b}", "__all__", "#"]), _Nested(24)],
    ids=lambda module: next(iter(module.state_dict()))[:40],
)
def test_program_with_such_a_module_is_decomposed_and_taken_by_the_client_and_torch(module: nn.Module, tmp_path: Path) -> None:
    x = torch.randn(2, 4)
    archive = saved(torch.export.export(module, (x,)))
    read = read_bytes(archive, tmp_path)
    assert not run_pipeline(read.program, "retrace", mode="full").modified
    result = run_pipeline(read.program, "decompose,cse,dce")
    assert result.modified
    output = written(result.program, tmp_path / "out.pt2", source=read)
    OutputCheck(BytesSource(archive)).check(BytesSource(output))
    torch.testing.assert_close(torch.export.load(io.BytesIO(output)).module()(x), module(x))


@pytest.mark.parametrize(("name", "says"), [('a"b', "double quotes"), ("a\\nb", "double quotes"), ("a\tb", "unprintable")])
def test_module_that_is_not_taken_is_told_as_unsupported(name: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(RetracedError, match=says) as caught:
        read_bytes(saved(torch.export.export(_Named(name), (torch.randn(2, 4),))), tmp_path)
    assert caught.value.reason is Reason.PROGRAM_UNSUPPORTED


@pytest.mark.parametrize("name", ["vocab éè.txt", "\U0001f600/日本.json", "x" * 494, "plain.txt"])
def test_extra_file_that_was_sent_may_come_back(name: str, tmp_path: Path) -> None:
    x = torch.randn(2, 4)
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(_Named("a"), (x,)), buffer, extra_files={name: "content"})
    sent = buffer.getvalue()
    read = read_bytes(sent, tmp_path)
    output = written(run_pipeline(read.program, "decompose").program, tmp_path / "out.pt2", source=read, records=read.carried())
    OutputCheck(BytesSource(sent)).check(BytesSource(output))
    files = {name: ""}
    torch.export.load(io.BytesIO(output), extra_files=files)
    assert files[name] in ("content", b"content")


@pytest.mark.parametrize(("length", "listed"), [(limits.LONGEST_PATH, True), (limits.LONGEST_PATH + 1, False)])
def test_longest_name_of_a_record_is_the_longest_that_torch_lists(length: int, listed: bool, tmp_path: Path) -> None:
    name = "x" * (length - len("archive/"))
    data = zipped({f"archive/{name}": b"content", "archive/version": b"3"})
    assert (name in torch._C.PyTorchFileReader(io.BytesIO(data)).get_all_records()) is listed
    path = tmp_path / "a.zip"
    path.write_bytes(data)
    with path.open("rb") as file:
        if listed:
            assert [name for name, _ in read_entries(DescriptorBytes(file.fileno()))] == [f"archive/{name}", "archive/version"]
        else:
            with pytest.raises(FormatError, match=rf"has {length} bytes"):
                read_entries(DescriptorBytes(file.fileno()))
