"""The record of sample inputs is never opened: it is written again as it was, or empty."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import pytest
import torch
from torch.export import ExportedProgram

from retraced_server.program import program_records
from tests.program.archives import read_bytes, read_case, records, written, zipped
from tests.support.compare import loaded
from tests.support.models import by_name

RECORD = "archive/data/sample_inputs/model.pt"


def test_record_is_passed_on_unopened(tmp_path: Path) -> None:
    contents = {**records(by_name("bert").archive), RECORD: b"no pickle at all"}
    source = read_bytes(zipped(contents), tmp_path)
    assert source.program.example_inputs is None
    assert records(written(source.program, tmp_path / "out.pt2", source=source))[RECORD] == b"no pickle at all"


def test_torch_reads_them_again(tmp_path: Path) -> None:
    case = by_name("containers")
    source = read_case(case, tmp_path)
    again = loaded(written(source.program, tmp_path / "out.pt2", source=source))
    expected = loaded(case.archive)
    assert str(again.example_inputs) == str(expected.example_inputs)


def test_changed_operators_do_not_cost_the_sample_inputs(tmp_path: Path) -> None:
    source = read_case(by_name("bert"), tmp_path)
    changed = copy.copy(source.program)
    made = program_records(changed, source=source)
    assert (made.model_unchanged, made.sample_inputs_dropped) == (False, False)


@pytest.mark.parametrize("change", ["dtype", "name", "size"])
def test_they_are_left_empty_when_the_arguments_change(tmp_path: Path, change: str) -> None:
    source = read_case(by_name("residual_net"), tmp_path)
    changed = read_case(by_name("residual_net"), tmp_path).program
    _change_last_input(changed, change)
    made = program_records(changed, source=source)
    assert made.sample_inputs_dropped
    archive = written(changed, tmp_path / "out.pt2", source=source)
    assert records(archive)[RECORD] == b""
    assert loaded(archive).example_inputs is None


def _change_last_input(program: ExportedProgram, change: str) -> None:
    node = [node for node in program.graph.nodes if node.op == "placeholder"][-1]
    value = node.meta["val"]
    if change == "dtype":
        node.meta["val"] = value.to(torch.float64)
    elif change == "size":
        with value.fake_mode:
            node.meta["val"] = torch.empty(3, *value.shape[1:])
    else:
        specs = program.graph_signature.input_specs
        node.name = "renamed"
        node.target = "renamed"
        specs[-1] = dataclasses.replace(specs[-1], arg=dataclasses.replace(specs[-1].arg, name="renamed"))
        for entry in program.module_call_graph:
            if entry.signature is not None:
                entry.signature.inputs = [
                    dataclasses.replace(argument, name="renamed") if argument.name == value_name else argument
                    for argument in entry.signature.inputs
                    for value_name in [entry.signature.inputs[-1].name]
                ]


def test_program_made_in_process_is_written_with_its_own(tmp_path: Path) -> None:
    program = by_name("containers").program
    again = loaded(written(program, tmp_path / "out.pt2"))
    assert str(again.example_inputs) == str(program.example_inputs)


def test_archive_without_the_record_is_read(tmp_path: Path) -> None:
    contents = records(by_name("bert").archive)
    del contents[RECORD]
    source = read_bytes(zipped(contents), tmp_path)
    assert source.sample_inputs == b""
    assert records(written(source.program, tmp_path / "out.pt2", source=source))[RECORD] == b""
