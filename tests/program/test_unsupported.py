"""What is valid and not taken is told apart from what is not valid, as torch does with the same archive."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_map

from retraced_server.errors import Reason, RetracedError
from retraced_server.program import not_loadable
from tests.program.archives import edited, read_bytes, records, saved, written, zipped
from tests.support.models import by_name

# Any: parsed JSON.
_Change = Callable[[Any], Any]


def _graph(model: Any) -> Any:
    return model["graph_module"]["graph"]


def _add(model: Any) -> Any:
    return next(node for node in _graph(model)["nodes"] if "aten.add.Tensor" in node["target"])


def _meta(model: Any) -> Any:
    return next(meta for meta in _graph(model)["tensor_values"].values() if meta["sizes"])


_CHANGES: dict[str, _Change] = {
    "unknown metadata": lambda model: _add(model)["metadata"].update(code="x"),
    "deep custom data": lambda model: _add(model)["metadata"].update(custom="[" * 70 + "]" * 70),
    "field of a newer schema": lambda model: _graph(model).update(more=1),
    "wrong type": lambda model: _graph(model).update(nodes="x"),
    "field missing": lambda model: _graph(model).pop("tensor_values"),
    "undefined value": lambda model: _add(model)["inputs"][0].update(arg={"as_tensor": {"name": "gone"}}),
    "argument missing": lambda model: _add(model)["inputs"].pop(0),
    "bad custom data": lambda model: _add(model)["metadata"].update(custom="x"),
    "bad module stack": lambda model: _add(model)["metadata"].update(nn_module_stack="x"),
    "no such dtype": lambda model: _meta(model).update(dtype=77),
    "compressed sparse value": lambda model: _meta(model).update(layout=2),
    "no such device": lambda model: _meta(model).update(device={"type": "x", "index": None}),
    "negative size": lambda model: _meta(model).update(sizes=[{"as_int": -1}], strides=[{"as_int": 1}]),
    "huge number of a symbol": lambda model: model["range_constraints"].update(u9999999={"min_val": 1, "max_val": 4}),
    "file operator": lambda model: _add(model).update(
        target="torch.ops.aten.from_file.default",
        inputs=[{"name": "filename", "arg": {"as_string": "/nowhere"}, "kind": 1}],
    ),
    "function of Python": lambda model: _add(model).update(target="torch.load"),
    "unknown dialect": lambda model: model.update(verifiers=["NOTHING"]),
    "bad tree spec": lambda model: model["graph_module"]["module_call_graph"][0]["signature"].update(in_spec="x"),
    "signature too short": lambda model: model["graph_module"]["signature"]["input_specs"].pop(),
}


def _is_read_by_torch(archive: bytes) -> bool:
    try:
        torch.export.load(io.BytesIO(archive))
    # Whatever torch makes of it.
    except Exception:  # noqa: BLE001
        return False
    return True


@pytest.mark.parametrize("change", _CHANGES.values(), ids=_CHANGES)
def test_what_torch_reads_is_never_called_invalid(change: _Change, tmp_path: Path) -> None:
    archive = edited(by_name("everything").archive, change)
    with pytest.raises(RetracedError) as caught:
        read_bytes(archive, tmp_path)
    assert caught.value.reason in (Reason.PROGRAM_INVALID, Reason.PROGRAM_UNSUPPORTED)
    if _is_read_by_torch(archive):
        assert caught.value.reason is Reason.PROGRAM_UNSUPPORTED
    if caught.value.reason is Reason.PROGRAM_INVALID:
        assert not _is_read_by_torch(archive)


def test_archive_of_two_programs_is_unsupported(tmp_path: Path) -> None:
    contents = records(by_name("everything").archive)
    contents["archive/models/other.json"] = contents["archive/models/model.json"]
    with pytest.raises(RetracedError, match="several programs") as caught:
        read_bytes(zipped(contents), tmp_path)
    assert caught.value.reason is Reason.PROGRAM_UNSUPPORTED


def test_error_of_torch_says_not_that_the_program_is_invalid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise NotImplementedError("torch cannot do this")

    monkeypatch.setattr("retraced_server.program.fake_tensors.FakeTensors.make", fails)
    with pytest.raises(RetracedError, match=r"input 0: this cannot be read here: NotImplementedError") as caught:
        read_bytes(by_name("everything").archive, tmp_path)
    assert caught.value.reason is Reason.PROGRAM_UNSUPPORTED


class TwoParts(torch.Tensor):
    """A tensor that is the sum of two, as quantized ones are made of several."""

    a: torch.Tensor
    b: torch.Tensor

    @staticmethod
    def __new__(cls, a: torch.Tensor, b: torch.Tensor) -> TwoParts:
        made: TwoParts = torch.Tensor._make_wrapper_subclass(cls, a.shape, dtype=a.dtype, device=a.device)
        made.a, made.b = a, b
        return made

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["a", "b"], None

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, torch.Tensor], meta: None, size: Any, stride: Any) -> TwoParts:
        return TwoParts(inner["a"], inner["b"])

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is nn.functional.linear:
            return nn.functional.linear(args[0], args[1].a + args[1].b, args[2])
        return super().__torch_function__(func, types, args, kwargs or {})  # type: ignore[no-untyped-call]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        if func is torch.ops.aten.detach.default:
            return TwoParts(args[0].a.detach(), args[0].b.detach())
        whole = tree_map(lambda value: value.a + value.b if isinstance(value, TwoParts) else value, (args, kwargs or {}))
        return func(*whole[0], **whole[1])


def test_weight_of_a_tensor_subclass_is_told_as_what_it_is(tmp_path: Path) -> None:
    module = nn.Linear(4, 4)
    module.weight = nn.Parameter(TwoParts(torch.randn(4, 4), torch.randn(4, 4)), requires_grad=False)
    program = torch.export.export(module, (torch.randn(2, 4),))
    assert "export.access_subclass_inner_tensor" in str(program.graph)
    with pytest.raises(RetracedError, match=r"`weight` is of a tensor subclass.*pickled.*`unwrap_tensor_subclass`") as caught:
        read_bytes(saved(program), tmp_path)
    assert caught.value.reason is Reason.PROGRAM_UNSUPPORTED


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_torchscript_and_checkpoints_are_told_as_what_they_are(tmp_path: Path) -> None:
    script, checkpoint = io.BytesIO(), io.BytesIO()
    torch.jit.save(torch.jit.script(nn.Sequential(nn.Linear(4, 4), nn.ReLU())), script)
    torch.save(nn.Linear(4, 4).state_dict(), checkpoint)
    for file, says in ((script, r"TorchScript.*torch\.export\.export"), (checkpoint, r"torch\.save wrote")):
        with pytest.raises(RetracedError, match=says) as caught:
            read_bytes(file.getvalue(), tmp_path)
        assert caught.value.reason is Reason.PROGRAM_MISSING


class _Results(nn.Module):
    def forward(self, x: torch.Tensor) -> Any:
        return torch.max(x, 0)


def test_torchs_own_named_results_are_not_written_and_told_so(tmp_path: Path) -> None:
    program = torch.export.export(_Results(), (torch.randn(3, 3),))
    with pytest.raises(NotImplementedError, match=r"torch\.return_types\.max"):
        saved(program)
    with pytest.raises(RetracedError, match=r"torch\.return_types\.max.*`tuple\(\.\.\.\)`") as caught:
        written(program, tmp_path / "out.pt2")
    assert caught.value.reason is Reason.PROGRAM_UNSUPPORTED


class _Uniform(nn.Module):
    def __init__(self, *bounds: float) -> None:
        super().__init__()
        self.bounds = bounds

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.clone().uniform_(*self.bounds)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("bounds", [(), (0.5, 2.0)], ids=["defaults", "given"])
def test_program_that_torch_cannot_load_again_has_a_remark(bounds: tuple[float, ...], tmp_path: Path) -> None:
    archive = saved(torch.export.export(_Uniform(*bounds), (torch.randn(3),)))
    remarks = not_loadable(read_bytes(archive, tmp_path).program)
    assert bool(remarks) is not _is_read_by_torch(archive)
    assert all("`from` of `uniform_`" in remark for remark in remarks)
