"""Weights are mapped or absent, and written from where they lie."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensor
from torch.export import ExportedProgram

from retraced_server.errors import Reason, RetracedError
from retraced_server.program import Payload, program_records, read_program, write_program
from tests.program.archives import WEIGHTS_CONFIG, edited, read_bytes, read_case, records, saved, written, zipped
from tests.support.case import ProgramCase
from tests.support.compare import assert_identical_programs, loaded
from tests.support.models import by_name


class _Views(nn.Module):
    """Parameters and buffers that are parts of one storage, and one that is not contiguous."""

    part: torch.Tensor
    whole: torch.Tensor
    empty: torch.Tensor
    scratch: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        whole = torch.arange(24, dtype=torch.float32)
        self.weight = nn.Parameter(whole[:12].view(3, 4))
        self.register_buffer("part", whole[12:].view(4, 3).t())
        self.register_buffer("whole", whole)
        self.register_buffer("empty", torch.empty(0, 3))
        self.register_buffer("scratch", torch.ones(2), persistent=False)

    def forward(self, x: torch.Tensor) -> Any:
        return x @ self.weight + self.part.sum() + self.whole[0] + self.empty.sum() + self.scratch.sum()


def _views() -> ExportedProgram:
    return torch.export.export(_Views(), (torch.ones(2, 3),))


def _storage_names(program: ExportedProgram) -> list[set[str]]:
    owners: dict[int, set[str]] = {}
    for name, tensor in program.state_dict.items():
        owners.setdefault(tensor.untyped_storage()._cdata, set()).add(name)
    return [names for names in owners.values() if len(names) > 1]


def test_tensors_of_one_storage_stay_tied_with_their_offsets(tmp_path: Path) -> None:
    source = read_bytes(saved(_views()), tmp_path)
    assert _storage_names(source.program) == [{"weight", "part", "whole"}]
    assert source.program.state_dict["part"].storage_offset() == 12
    again = loaded(written(source.program, tmp_path / "again.pt2", source=source))
    assert _storage_names(again) == [{"weight", "part", "whole"}]
    assert_identical_programs(again, loaded(saved(_views())), aliases=False)


def test_mapped_weights_can_be_written_to_without_changing_the_file(tmp_path: Path) -> None:
    case = by_name("bert")
    source = read_case(case, tmp_path)
    weight = next(iter(source.program.state_dict.values()))
    with torch.no_grad():
        weight.add_(1)
    assert next(tmp_path.glob("read_*.pt2")).read_bytes() == case.archive


@pytest.mark.parametrize("change", ["in place", "through .data", "through numpy"])
def test_weight_that_was_written_to_is_written_from_memory(tmp_path: Path, change: str) -> None:
    source = read_case(by_name("bert"), tmp_path)
    name, weight = next(iter(source.program.state_dict.items()))
    with torch.no_grad():
        if change == "in place":
            weight.fill_(7)
        elif change == "through .data":
            weight.data.fill_(7)
        else:
            weight.detach().numpy()[:] = 7
    again = loaded(written(source.program, tmp_path / "again.pt2", source=source))
    assert torch.equal(again.state_dict[name], torch.full_like(again.state_dict[name], 7))


def test_unchanged_weights_are_named_and_not_read(tmp_path: Path) -> None:
    source = read_case(by_name("bert"), tmp_path)
    made = program_records(source.program, source=source)
    kinds = {record.name: type(record.content) for record in made.records if "/weight_" in record.name}
    assert set(kinds.values()) == {Payload}
    assert all(record.content.record == record.name for record in made.records if isinstance(record.content, Payload))


def test_absent_weights_are_fake_tensors_of_the_programs_mode(serializable_case: ProgramCase, tmp_path: Path) -> None:
    source = read_case(serializable_case, tmp_path, weights="absent")
    modes = {tensor.fake_mode for tensor in _leaves(source.program) if isinstance(tensor, FakeTensor)}
    assert len(modes) <= 1
    expected = serializable_case.reloaded
    for name, tensor in {**source.program.state_dict, **source.program.constants}.items():
        real = {**expected.state_dict, **expected.constants}[name]
        assert isinstance(tensor, FakeTensor)
        assert tensor.fake_mode in modes or not modes
        assert isinstance(tensor, nn.Parameter) == isinstance(real, nn.Parameter)
        assert (tensor.shape, tensor.stride(), tensor.dtype, tensor.device, tensor.storage_offset(), tensor.requires_grad) == (
            real.shape,
            real.stride(),
            real.dtype,
            real.device,
            real.storage_offset(),
            real.requires_grad,
        )


def test_program_with_absent_weights_decomposes_and_is_written_with_them(tmp_path: Path) -> None:
    case = by_name("vit")
    source = read_case(case, tmp_path, weights="absent")
    decomposed = source.program.run_decompositions()
    again = loaded(written(decomposed, tmp_path / "again.pt2", source=source))
    for name, tensor in loaded(case.archive).state_dict.items():
        assert torch.equal(again.state_dict[name], tensor)


def test_absent_weight_without_a_payload_is_an_error(tmp_path: Path) -> None:
    source = read_case(by_name("bert"), tmp_path, weights="absent")
    with pytest.raises(RetracedError, match="is absent and was not read from an archive") as caught:
        written(source.program, tmp_path / "again.pt2")
    assert caught.value.reason is Reason.PROGRAM_UNSUPPORTED


def test_weights_saved_as_fake_tensors_stay_absent(tmp_path: Path) -> None:
    archive = records(by_name("bert").archive)
    name = next(name for name in archive if "weight_" in name)
    archive[name] = b""
    source = read_bytes(zipped(archive), tmp_path)
    again = written(source.program, tmp_path / "again.pt2", source=source)
    assert records(again)[name] == b""


def test_records_begin_at_multiples_of_64_bytes(tmp_path: Path) -> None:
    archive = written(by_name("bert").program, tmp_path / "ours.pt2")
    with zipfile.ZipFile(io.BytesIO(archive)) as file:
        for info in file.infolist():
            name_length, extra_length = struct.unpack_from("<2H", archive, info.header_offset + 26)
            assert (info.header_offset + 30 + name_length + extra_length) % 64 == 0, info.filename


def test_weights_at_odd_offsets_are_read(tmp_path: Path) -> None:
    case = by_name("bert")
    # A zip without padding.
    assert_identical_programs(
        read_bytes(zipped(records(case.archive)), tmp_path).program, read_case(case, tmp_path).program, aliases=False
    )


def test_damaged_payload_is_found_when_it_is_checked(tmp_path: Path) -> None:
    archive = bytearray(by_name("bert").archive)
    at = archive.index(b"weight_0") + 200
    archive[at] ^= 0xFF
    with pytest.raises(RetracedError, match="weight_0` is damaged") as caught:
        read_bytes(bytes(archive), tmp_path)
    assert caught.value.reason is Reason.ARCHIVE_INVALID
    read_bytes(bytes(archive), tmp_path, check=False)


INVALID, UNSUPPORTED = Reason.PROGRAM_INVALID, Reason.PROGRAM_UNSUPPORTED


@pytest.mark.parametrize(
    ("change", "message", "reason"),
    [
        (lambda meta: meta["tensor_meta"]["sizes"][0].update(as_int=10**9), "does not fit into its record", INVALID),
        (lambda meta: meta["tensor_meta"]["storage_offset"].update(as_int=1), "does not fit into its record", INVALID),
        (lambda meta: meta["tensor_meta"]["strides"].pop(), "sizes and", INVALID),
        (lambda meta: meta.update(use_pickle=True), "which torch stores pickled", UNSUPPORTED),
        (lambda meta: meta.update(path_name="../../../etc/passwd"), "is no name of a payload", INVALID),
        (lambda meta: meta.update(path_name="custom_obj_0"), "object of a custom class", UNSUPPORTED),
        (lambda meta: meta.update(path_name="weight_999"), "has no record", INVALID),
        (lambda meta: meta.update(tensor_meta=None), "has no description", INVALID),
        (lambda meta: meta["tensor_meta"].update(layout=1), "is not strided", UNSUPPORTED),
        (lambda meta: meta["tensor_meta"].update(dtype=99), "the schema has no dtype 99", INVALID),
        (lambda meta: meta["tensor_meta"]["device"].update(type="cuda'"), "no type of device", INVALID),
    ],
)
def test_payload_config_that_does_not_fit_is_refused(tmp_path: Path, change: Any, message: str, reason: Reason) -> None:
    archive = edited(
        by_name("bert").archive, lambda config: change(next(iter(config["config"].values()))), record=WEIGHTS_CONFIG
    )
    with pytest.raises(RetracedError, match=message) as caught:
        read_bytes(archive, tmp_path)
    assert caught.value.reason is reason


_BIG = """
import io, sys, zipfile, torch
from retraced_server.program import read_program, write_program

def private():
    return sum(int(line.split()[1]) for line in open("/proc/self/smaps_rollup") if line.startswith("Private_Dirty"))

small = sys.argv[1]
with open(sys.argv[3], "wb") as file:
    write_program(read_program(small).program, file)
before = private()
source = read_program(sys.argv[2])
with open(sys.argv[3], "wb", buffering=0) as file:
    write_program(source.program, file, source=source)
print(private() - before)
"""


class _Big(nn.Module):
    def __init__(self, megabytes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(megabytes * 256, 1024))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight


def test_reading_and_writing_does_not_copy_the_weights_into_memory(tmp_path: Path) -> None:
    megabytes = 256
    for name, size in (("small", 1), ("big", megabytes)):
        program = torch.export.export(_Big(size), (torch.ones(1, size * 256),))
        torch.export.save(program, tmp_path / f"{name}.pt2")
        del program
    arguments = [str(tmp_path / name) for name in ("small.pt2", "big.pt2", "out.pt2")]
    run = subprocess.run(
        [sys.executable, "-c", _BIG, *arguments], capture_output=True, text=True, check=True, env={**os.environ}
    )
    assert int(run.stdout.split()[-1]) < megabytes * 1024 / 8
    assert loaded((tmp_path / "out.pt2").read_bytes()).state_dict["weight"].shape == (megabytes * 256, 1024)


def test_file_that_is_open_is_left_open(tmp_path: Path) -> None:
    path = tmp_path / "in.pt2"
    path.write_bytes(by_name("bert").archive)
    with path.open("rb") as file:
        source = read_program(file)
        with (tmp_path / "out.pt2").open("wb") as out:
            write_program(source.program, out, source=source)
        assert not file.closed
    source = read_program(path)
    source.close()
    # What is mapped does not need the file.
    assert torch.isfinite(next(iter(source.program.state_dict.values()))).all()


def _leaves(program: ExportedProgram) -> Any:
    return (node.meta.get("val") for node in program.graph.nodes)
