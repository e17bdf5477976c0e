"""Our writer writes what torch's writes, and each reads the other's files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.export import ExportedProgram

from retraced_server.errors import Reason, RetracedError
from retraced_server.program import write_model
from tests.program.archives import model_of, read_bytes, read_case, records, saved, written
from tests.support.case import ProgramCase
from tests.support.compare import assert_identical_programs, assert_same_results, loaded
from tests.support.models import LLAMA_LIKE, by_name


def _assert_writes_like_torch(program: ExportedProgram) -> None:
    assert json.loads(write_model(program)) == model_of(saved(program))


def test_model_record_is_what_torch_writes(serializable_case: ProgramCase) -> None:
    _assert_writes_like_torch(serializable_case.program)


def test_model_record_of_a_program_that_torch_read_is_what_torch_writes(serializable_case: ProgramCase) -> None:
    _assert_writes_like_torch(serializable_case.reloaded)


def test_model_record_of_a_program_that_we_read_is_what_torch_writes(serializable_case: ProgramCase, tmp_path: Path) -> None:
    _assert_writes_like_torch(read_case(serializable_case, tmp_path).program)


def test_model_record_of_a_decomposed_program_is_what_torch_writes(real_case: ProgramCase) -> None:
    try:
        program = real_case.decomposed
    except ValueError:
        pytest.skip("torch cannot decompose it")
    _assert_writes_like_torch(program)


@pytest.mark.parametrize("case", [LLAMA_LIKE], ids=str)
def test_model_record_of_the_benchmark_program_is_what_torch_writes(case: ProgramCase) -> None:
    _assert_writes_like_torch(case.program)


def test_archive_has_the_records_that_torch_writes(serializable_case: ProgramCase, tmp_path: Path) -> None:
    ours = records(written(serializable_case.program, tmp_path / "ours.pt2"))
    theirs = records(serializable_case.archive)
    assert list(ours) == list(theirs)
    for name, data in theirs.items():
        if name.endswith(".json"):
            assert json.loads(ours[name]) == json.loads(data), name
        # Pickled, with addresses in it; and an identity that torch makes from a hash of its own.
        elif not name.endswith(("model.pt", ".data/serialization_id")):
            assert ours[name] == data, name


def test_torch_reads_what_we_write(serializable_case: ProgramCase, tmp_path: Path) -> None:
    archive = written(serializable_case.program, tmp_path / "ours.pt2")
    assert_identical_programs(loaded(archive), serializable_case.reloaded, aliases=False)


def test_torch_reads_what_we_read_and_write_again(serializable_case: ProgramCase, tmp_path: Path) -> None:
    source = read_case(serializable_case, tmp_path)
    archive = written(source.program, tmp_path / "ours.pt2", source=source)
    assert_identical_programs(loaded(archive), serializable_case.reloaded, aliases=False)


def test_we_read_what_we_write(serializable_case: ProgramCase, tmp_path: Path) -> None:
    program = read_case(serializable_case, tmp_path).program
    again = read_bytes(written(program, tmp_path / "ours.pt2"), tmp_path).program
    # The range of a symbol that occurs nowhere in the graph is lost, as it is with torch.
    again._range_constraints = {**program.range_constraints, **again.range_constraints}
    assert_identical_programs(again, program)


def test_results_stay_the_same_through_our_files(real_case: ProgramCase, tmp_path: Path) -> None:
    archive = written(real_case.program, tmp_path / "ours.pt2")
    assert_same_results(real_case.program, loaded(archive), real_case.inputs()[:1], exact=True)


def test_unchanged_program_keeps_its_model_record_byte_for_byte(tmp_path: Path) -> None:
    source = read_case(by_name("bert"), tmp_path)
    archive = records(written(source.program, tmp_path / "ours.pt2", source=source))
    theirs = records(by_name("bert").archive)
    del archive["archive/.data/serialization_id"], theirs["archive/.data/serialization_id"]
    assert archive == theirs


def test_changed_program_keeps_its_names(tmp_path: Path) -> None:
    case = by_name("input_and_id")
    source = read_case(case, tmp_path)
    for node in source.program.graph.nodes:
        if node.target is torch.ops.aten.add.Tensor:
            node.target = torch.ops.aten.sub.Tensor
    before = model_of(case.archive)["graph_module"]["graph"]
    after = json.loads(write_model(source.program))["graph_module"]["graph"]
    assert [node["name"] for node in after["nodes"]] == [node["name"] for node in before["nodes"]]
    assert after["inputs"] == before["inputs"]


class _SparseWeight(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", torch.eye(4).to_sparse())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sparse.mm(self.weight, x)


class _SparseValue(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.to_sparse_csr().to_dense()


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
@pytest.mark.parametrize("module", [_SparseWeight(), _SparseValue()], ids=["weight", "value"])
def test_sparse_program_that_torch_cannot_write_is_refused(module: torch.nn.Module, tmp_path: Path) -> None:
    program = torch.export.export(module, (torch.randn(4, 4),))
    with pytest.raises(Exception, match=r"(?i)sparse"):
        saved(program)
    with pytest.raises(RetracedError, match="has no serialized form") as caught:
        written(program, tmp_path / "sparse.pt2")
    assert caught.value.reason is Reason.PROGRAM_UNSUPPORTED


def test_same_program_is_written_as_the_same_bytes(tmp_path: Path) -> None:
    program = by_name("containers").program
    program = read_bytes(saved(program), tmp_path).program
    assert written(program, tmp_path / "one.pt2") == written(program, tmp_path / "other.pt2")
