"""What a hook raises can be caught by its own type, as on torch's class, and as a `PassError` that says where."""

from __future__ import annotations

import enum
from typing import Any

import pytest
import torch
from torch import nn

from retraced_server.errors import Reason, RetracedError
from retraced_server.passes import run_pipeline
from retraced_server.retrace import ExportPass, ExportPassError, PassError, ProxyValue

aten = torch.ops.aten


def _program() -> torch.export.ExportedProgram:
    return torch.export.export(nn.ReLU(), (torch.randn(2, 3),))


class Raises(ExportPass):
    """Raises what it is given at relu."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> ProxyValue[Any]:
        """Raises."""
        raise self.error


class _CodeError(Exception):
    """An error of a plugin's with fields, made otherwise than by a message."""

    def __init__(self, code: int, *, hint: str) -> None:
        super().__init__(code, hint)
        self.code, self.hint = code, hint

    def __str__(self) -> str:
        return f"code {self.code}"


class _SlotError(Exception):
    __slots__ = ("detail",)
    detail: int


def _slotted() -> Exception:
    error = _SlotError("in a slot")
    error.detail = 7
    return error


class _Kind(enum.Enum):
    BAD = 1


def _nested() -> Exception:
    return ExceptionGroup("several", [ValueError("one")])


class _FinalError(Exception):
    def __init_subclass__(cls) -> None:
        raise TypeError("no subclasses")


class _ArgumentsError(Exception):
    def __new__(cls, first: int, second: int) -> _ArgumentsError:
        return super().__new__(cls, first, second)

    def __init__(self, first: int, second: int) -> None:
        super().__init__(first, second)


class _NodeError(Exception):
    """Has a property where a PassError has a field."""

    @property
    def node(self) -> str:
        return "mine"


_CATCHABLE: list[Exception] = [
    ValueError("nope"),
    KeyError("nope"),
    TypeError("nope"),
    AttributeError("nope", name="field", obj=_Kind.BAD),
    NotImplementedError("nope"),
    AssertionError("nope"),
    ZeroDivisionError("nope"),
    FileNotFoundError(2, "nope", "/a/file"),
    UnicodeDecodeError("utf-8", b"nope", 0, 1, "nope"),
    ImportError("nope", name="module"),
    SyntaxError("nope", ("file.py", 3, 1, "text")),
    torch.cuda.OutOfMemoryError("nope"),
    _CodeError(3, hint="nope"),
    _ArgumentsError(1, 2),
    _slotted(),
]


@pytest.mark.parametrize("error", _CATCHABLE, ids=lambda error: type(error).__name__)
def test_error_is_caught_by_its_own_type_and_as_a_pass_error(error: Exception) -> None:
    with pytest.raises(type(error)) as own:
        Raises(error)(_program().graph_module)
    caught = own.value
    assert isinstance(caught, PassError)
    assert caught.__cause__ is error
    assert (caught.pass_name, caught.node, caught.target) == ("Raises", "relu", "aten.relu.default")
    assert f": {type(error).__name__}: {error}" in str(caught)
    assert type(caught).__name__ == "PassError"


def test_fields_of_the_error_are_those_of_what_is_caught() -> None:
    with pytest.raises(FileNotFoundError) as missing:
        Raises(FileNotFoundError(2, "nope", "/a/file"))(_program().graph_module)
    assert (missing.value.errno, missing.value.filename) == (2, "/a/file")
    with pytest.raises(_CodeError) as coded:
        Raises(_CodeError(3, hint="ask"))(_program().graph_module)
    assert (coded.value.code, coded.value.hint) == (3, "ask")
    with pytest.raises(_SlotError) as slotted:
        Raises(_slotted())(_program().graph_module)
    assert slotted.value.detail == 7


@pytest.mark.parametrize(
    "error",
    [_FinalError("nope"), _nested(), _NodeError("nope"), StopIteration("nope")],
    ids=lambda error: type(error).__name__,
)
def test_error_whose_type_cannot_be_shared_is_the_cause_of_a_pass_error(error: Exception) -> None:
    with pytest.raises(PassError) as caught:
        Raises(error)(_program().graph_module)
    assert type(caught.value) is PassError
    assert caught.value.__cause__ is error
    assert caught.value.node == "relu"


def test_error_of_the_engine_is_a_pass_error_without_a_type_beside_it() -> None:
    with pytest.raises(PassError) as caught:
        Raises(ExportPassError("cannot be done"))(_program().graph_module)
    assert type(caught.value) is PassError
    assert str(caught.value).endswith(": cannot be done")


def test_error_in_a_subgraph_keeps_its_type_and_its_graph() -> None:
    class Model(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cond(x.sum() > 0, lambda x: x.relu(), lambda x: x.sin(), (x,))

    class Fails(ExportPass):
        def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> ProxyValue[Any]:
            if op is aten.relu.default:
                raise KeyError("within")
            return super().call_operator(op, args, kwargs, meta)

    with pytest.raises(KeyError) as caught:
        Fails()(torch.export.export(Model(), (torch.randn(3),)).graph_module)
    assert isinstance(caught.value, PassError)
    assert (caught.value.graph, caught.value.node) == ("true_graph_0", "relu")


def test_pipeline_fails_with_its_own_error_whatever_the_type() -> None:
    for error in (ValueError("nope"), KeyError("nope"), RetracedError(Reason.INTERNAL, "nope")):
        with pytest.raises(RetracedError, match=f"Raises failed at node 'relu'.*: {type(error).__name__}: ") as failure:
            run_pipeline(_program(), [Raises(error)])
        assert failure.value.reason is Reason.PASS_FAILED
        assert failure.value.metadata["node"] == "relu"
