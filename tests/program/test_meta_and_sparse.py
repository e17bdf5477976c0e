"""Programs on the device `meta`, and with sparse values: read as torch has them in memory, retraced, decomposed and written."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.export import Dim, ExportedProgram, export

from retraced._source import BytesSource
from retraced.checks.output import OutputCheck
from retraced_server.analysis.equivalence import differences
from retraced_server.errors import Reason, RetracedError
from retraced_server.passes import run_pipeline
from retraced_server.passes.decompose.stated_differences import unexplained
from tests.program.archives import CONSTANTS_CONFIG, WEIGHTS_CONFIG, edited, model_of, read_bytes, records, saved, written

_DEVICE = torch.device("meta")


class _Layers(nn.Module):
    """Layers of several sizes and dtypes, whose weights have one record in what torch writes, and a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(2, 2), nn.Linear(2, 8)
        self.third = nn.Linear(8, 4, dtype=torch.bfloat16)
        self.constant = torch.ones(4, dtype=torch.bfloat16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(self.third(self.second(self.first(x)).bfloat16()) + self.constant)


class _Written(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = x.view(4, 2)
        y.add_(1)
        return y.t(), torch.zeros(3, device="meta") + x.new_ones(3)


def _layers() -> ExportedProgram:
    with _DEVICE:
        return export(_Layers(), (torch.ones(2, 2),))


def _dynamic() -> ExportedProgram:
    return export(nn.Linear(4, 4, device=_DEVICE), (torch.ones(3, 4, device=_DEVICE),), dynamic_shapes=({0: Dim("b")},))


def _in_place() -> ExportedProgram:
    return export(_Written(), (torch.ones(2, 4, device=_DEVICE),))


class _Product(nn.Module):
    def forward(self, s: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return torch.sparse.mm(s, x)


class _ToSparse(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sparse.mm(x.to_sparse(), x)


class _Made(nn.Module):
    def forward(self, i: torch.Tensor, v: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return torch.sparse.mm(torch.sparse_coo_tensor(i, v, (4, 4)), x)


class _Dense(nn.Module):
    def forward(self, s: torch.Tensor) -> torch.Tensor:
        return s.to_dense() + 1


class _Coalesced(nn.Module):
    def forward(self, s: torch.Tensor) -> torch.Tensor:
        return s.coalesce().to_dense()


_COO = torch.tensor([[0.0, 2.0, 0.0, 1.0]] * 4).to_sparse()
_TWICE = torch.sparse_coo_tensor(torch.tensor([[0, 0], [1, 1]]), torch.tensor([1.0, 2.0]), (4, 4), check_invariants=True)
SPARSE = {
    "input": (_Product(), (_COO, torch.randn(4, 3))),
    "value": (_ToSparse(), (torch.randn(4, 4),)),
    "made of parts": (_Made(), (torch.tensor([[0, 1], [1, 2]]), torch.randn(2), torch.randn(4, 3))),
    "dense": (_Dense(), (_COO,)),
    "coalesced": (_Coalesced(), (_TWICE,)),
}
META = {"layers": _layers, "dynamic": _dynamic, "in place": _in_place}


def _layouts(program: ExportedProgram) -> list[tuple[str, torch.device, torch.layout]]:
    values = [(node.name, node.meta.get("val")) for node in program.graph.nodes if node.op != "output"]
    return [(name, value.device, value.layout) for name, value in values if isinstance(value, torch.Tensor)]


@pytest.mark.parametrize("make", META.values(), ids=META)
def test_program_on_meta_is_read_and_retraced_as_torch_has_it(make: object, tmp_path: Path) -> None:
    assert callable(make)
    program = make()
    archive = saved(program)
    read = read_bytes(archive, tmp_path)
    assert _layouts(read.program) == _layouts(program)
    for name, tensor in program.state_dict.items():
        assert read.program.state_dict[name].is_meta
        assert read.program.state_dict[name].shape == tensor.shape
        assert read.program.state_dict[name].dtype is tensor.dtype
    assert not run_pipeline(read.program, "retrace,cse,dce", mode="full").modified


@pytest.mark.parametrize("make", META.values(), ids=META)
def test_decomposed_program_on_meta_is_what_torch_makes_of_it(make: object, tmp_path: Path) -> None:
    assert callable(make)
    program = make()
    archive = saved(program)
    read = read_bytes(archive, tmp_path)
    result = run_pipeline(read.program, "decompose")
    expected = torch.export.load(io.BytesIO(archive)).run_decompositions()
    assert unexplained(differences(result.program, expected)) == []
    output = written(result.program, tmp_path / "out.pt2", source=read)
    OutputCheck(BytesSource(archive)).check(BytesSource(output))
    again = torch.export.load(io.BytesIO(output))
    assert {name: tensor.shape for name, tensor in again.state_dict.items()} == {
        name: tensor.shape for name, tensor in program.state_dict.items()
    }
    assert all(tensor.is_meta for tensor in again.state_dict.values())


def test_program_on_meta_that_was_made_here_is_written_without_bytes(tmp_path: Path) -> None:
    archive = written(_layers(), tmp_path / "out.pt2")
    assert torch.export.load(io.BytesIO(archive)).module()(torch.ones(2, 2, device=_DEVICE)).is_meta
    assert not any(data for name, data in records(archive).items() if "/weight_" in name or "/tensor_" in name)


def test_weights_that_have_one_record_for_being_without_bytes_share_nothing(tmp_path: Path) -> None:
    archive = saved(_layers())
    config = model_paths(archive)
    assert len(set(config.values())) < len(config)
    read = read_bytes(archive, tmp_path).program
    values = {node.name: node.meta["val"] for node in read.graph.nodes if node.op == "placeholder"}
    storages = [value.untyped_storage()._cdata for value in values.values()]
    assert len(set(storages)) == len(storages)


def model_paths(archive: bytes) -> dict[str, str]:
    """The record of each tensor of the two payload configs."""
    found: dict[str, str] = {}
    for record in (WEIGHTS_CONFIG, CONSTANTS_CONFIG):
        edited(
            archive,
            lambda config: found.update({name: meta["path_name"] for name, meta in config["config"].items()}),
            record=record,
        )
    return found


@pytest.mark.parametrize(("module", "inputs"), SPARSE.values(), ids=SPARSE)
def test_sparse_program_is_read_as_torch_has_it_in_memory(
    module: nn.Module, inputs: tuple[torch.Tensor, ...], tmp_path: Path
) -> None:
    program = export(module, inputs)
    read = read_bytes(saved(program), tmp_path)
    assert _layouts(read.program) == _layouts(program)
    assert torch.sparse_coo in [layout for _, _, layout in _layouts(read.program)]
    assert not run_pipeline(read.program, "retrace,cse,dce", mode="full").modified


class _AsDense(nn.Module):
    def forward(self, s: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return s.to_dense() + x


@pytest.mark.parametrize("pipeline", ["retrace", "retrace,cse,dce", "decompose"])
def test_sparse_program_of_dynamic_sizes_keeps_its_symbols(pipeline: str, tmp_path: Path) -> None:
    program = export(_AsDense(), (_COO, torch.randn(4, 4)), dynamic_shapes=({0: Dim.DYNAMIC}, {0: Dim.DYNAMIC}))
    archive = saved(program)
    read = read_bytes(archive, tmp_path)
    result = run_pipeline(read.program, pipeline, mode="full").program
    for one in (read.program, result):
        assert one.range_constraints == program.range_constraints
        assert list(one.range_constraints)
    sizes = {node.name: str(tuple(node.meta["val"].shape)) for node in program.graph.nodes if node.op == "placeholder"}
    assert sizes == {node.name: str(tuple(node.meta["val"].shape)) for node in result.graph.nodes if node.op == "placeholder"}
    output = written(result, tmp_path / "out.pt2", source=read)
    inputs = torch.eye(7, 4).to_sparse(), torch.randn(7, 4)
    torch.testing.assert_close(torch.export.load(io.BytesIO(output)).module()(*inputs), _AsDense()(*inputs))


@pytest.mark.parametrize(("module", "inputs"), SPARSE.values(), ids=SPARSE)
def test_decomposed_sparse_program_computes_the_same_and_keeps_its_layouts(
    module: nn.Module, inputs: tuple[torch.Tensor, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = saved(export(module, inputs))
    # As in a worker, where no kernel runs but fake ones.
    monkeypatch.setattr("torch._subclasses.fake_tensor.FakeTensorMode._can_run_unsafe_fallback_allowed_namespaces", {})
    read = read_bytes(archive, tmp_path)
    result = run_pipeline(read.program, "decompose,cse,dce")
    output = written(result.program, tmp_path / "out.pt2", source=read)
    OutputCheck(BytesSource(archive)).check(BytesSource(output))
    torch.testing.assert_close(torch.export.load(io.BytesIO(output)).module()(*inputs), module(*inputs))
    inputs_given = [argument["as_tensor"]["name"] for argument in model_of(archive)["graph_module"]["graph"]["inputs"]]
    for name in inputs_given:
        old, new = (model_of(one)["graph_module"]["graph"]["tensor_values"][name] for one in (archive, output))
        assert old == new


class _Doubled(nn.Module):
    def forward(self, s: torch.Tensor) -> torch.Tensor:
        return s * 2


def test_operator_that_torch_has_no_fake_kernel_for_fails_by_torchs_own_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = export(_Doubled(), (_COO,))
    monkeypatch.setattr("torch._subclasses.fake_tensor.FakeTensorMode._can_run_unsafe_fallback_allowed_namespaces", {})
    with pytest.raises(RuntimeError, match="mul"):
        program.run_decompositions()
    read = read_bytes(saved(program), tmp_path)
    assert not run_pipeline(read.program, "retrace,cse,dce").modified
    with pytest.raises(RetracedError, match="mul") as caught:
        run_pipeline(read.program, "decompose{by=torch}")
    assert caught.value.reason is Reason.PASS_FAILED
