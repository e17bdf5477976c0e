"""`retraced inspect`: what real archives hold, and rubbish refused. Without torch, without a server."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from torch import fx
from torch._ops import HigherOrderOperator, OpOverload
from torch.export import ExportedProgram

from tests.cli.support import Run
from tests.support.case import ProgramCase
from tests.support.models import by_name


@pytest.fixture
def everything(tmp_path: Path) -> Path:
    """An archive with parameters, buffers, constants, symbols, data-dependent sizes and a cond."""
    return write(tmp_path, by_name("everything").archive)


def write(directory: Path, data: bytes) -> Path:
    path = directory / "model.pt2"
    path.write_bytes(data)
    return path


def told(retraced: Run, path: Path) -> Any:
    ended = retraced("inspect", path, "--json")
    assert (ended.code, ended.err) == (0, "")
    return json.loads(ended.out)


def graph_modules(program: ExportedProgram) -> list[fx.GraphModule]:
    return [module for module in program.graph_module.modules() if isinstance(module, fx.GraphModule)]


def target_name(target: Any) -> str:
    """What is called, as torch.ops has it; of a Python function its module and name."""
    if isinstance(target, HigherOrderOperator):
        return f"higher_order.{target.name()}"
    return str(target) if isinstance(target, OpOverload) else f"{target.__module__}.{target.__name__}"


def rewritten(archive: bytes, record: str, data: bytes | None) -> bytes:
    """The archive with one record's bytes replaced, or without that record."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as before, zipfile.ZipFile(out, "w") as after:
        for entry in before.infolist():
            if not entry.filename.endswith(record):
                after.writestr(entry.filename, before.read(entry))
            elif data is not None:
                after.writestr(entry.filename, data)
    return out.getvalue()


def test_signature_symbols_operators_and_records_are_shown(retraced: Run, everything: Path) -> None:
    ended = retraced("inspect", everything)
    assert (ended.code, ended.err) == (0, "")
    rows = [line.split() for line in ended.out.splitlines()]
    assert ["in", "0", "p_linear_weight", "parameter", "linear.weight"] in rows
    assert ["s77", "2", "32", "4"] in rows
    assert ["1", "higher_order.cond"] in rows
    assert "in the root graph and 2 subgraphs" in ended.out
    assert "models/model.json" in ended.out


def test_json_agrees_with_what_torch_loads(retraced: Run, tmp_path: Path, serializable_case: ProgramCase) -> None:
    path = write(tmp_path, serializable_case.archive)
    program = serializable_case.reloaded
    found = told(retraced, path)["program"]
    nodes = [node for module in graph_modules(program) for node in module.graph.nodes]
    assert (found["node_count"], found["graph_count"]) == (len(nodes), len(graph_modules(program)))
    targets = Counter(target_name(node.target) for node in nodes if node.op == "call_function")
    assert found["targets"] == targets
    signature = program.graph_signature
    assert [item["target"] or None for item in found["inputs"]] == [spec.target for spec in signature.input_specs]
    assert [item["kind"] for item in found["outputs"]] == [spec.kind.name.lower() for spec in signature.output_specs]
    assert found["guards"] == program._guards_code
    assert {str(symbol) for symbol in program.range_constraints} <= {symbol["name"] for symbol in found["symbols"]}


def test_a_copy_that_lies_under_another_root_is_read_all_the_same(retraced: Run, everything: Path, tmp_path: Path) -> None:
    expected = told(retraced, everything)["program"]
    out = io.BytesIO()
    with zipfile.ZipFile(everything) as before, zipfile.ZipFile(out, "w") as after:
        for entry in before.infolist():
            after.writestr(f"other/{entry.filename.partition('/')[2]}", before.read(entry))
    assert told(retraced, write(tmp_path, out.getvalue()))["program"] == expected


@pytest.mark.parametrize(
    ("data", "reason", "why"),
    [
        (b"", "ARCHIVE_INVALID", "is empty"),
        (b"no zip at all" * 100, "ARCHIVE_INVALID", "not a zip"),
        (by_name("everything").archive[:-500], "ARCHIVE_INVALID", "cut off"),
        (by_name("everything").archive[:5000], "ARCHIVE_INVALID", "cut off"),
        (rewritten(by_name("everything").archive, "models/model.json", None), "PROGRAM_MISSING", "no record models/*.json"),
        (rewritten(by_name("everything").archive, "models/model.json", b"{"), "PROGRAM_INVALID", "not JSON"),
        (rewritten(by_name("everything").archive, "models/model.json", b"{}"), "PROGRAM_INVALID", "not an exported program"),
        (rewritten(by_name("everything").archive, "models/model.json", b"[" * 100_000), "PROGRAM_INVALID", "not JSON"),
        (rewritten(by_name("everything").archive, "models/model.json", b"\xff\xfe\xfd"), "PROGRAM_INVALID", "not JSON"),
    ],
    ids=["empty", "no-zip", "cut-off", "cut-off-early", "no-program", "no-json", "no-program-json", "deep-json", "no-text"],
)
def test_rubbish_ends_with_2_and_says_what_it_is(retraced: Run, tmp_path: Path, data: bytes, reason: str, why: str) -> None:
    ended = retraced("inspect", write(tmp_path, data))
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith(f"retraced: {reason}: ")
    assert why in ended.err
    assert "what to do" in ended.err


def test_a_damaged_record_is_found_by_its_crc(retraced: Run, everything: Path) -> None:
    data = bytearray(everything.read_bytes())
    place = data.index(b'"graph_module"')
    data[place + 1] ^= 1
    everything.write_bytes(data)
    ended = retraced("inspect", everything)
    assert ended.code == 2
    assert "models/model.json is damaged" in ended.err


def test_a_record_that_is_compressed_is_not_made_larger(retraced: Run, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.pt2", "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("bomb/models/model.json", b" " * (1 << 20))
    ended = retraced("inspect", tmp_path / "bomb.pt2")
    assert ended.code == 2
    assert "record models/model.json is compressed" in ended.err


def test_a_path_that_is_not_there_ends_with_2(retraced: Run, tmp_path: Path) -> None:
    ended = retraced("inspect", tmp_path / "absent.pt2")
    assert ended.code == 2
    assert f"{tmp_path / 'absent.pt2'} cannot be read: No such file or directory" in ended.err


def test_of_very_many_parameters_and_records_only_the_first_are_shown(retraced: Run, tmp_path: Path) -> None:
    ended = retraced("inspect", write(tmp_path, by_name("llama").archive))
    assert "3 more (--json lists all)" in ended.out
    assert "12 more (--json lists all)" in ended.out
    assert "attention_mask" in ended.out, "what a caller passes is always shown"


def test_it_loads_neither_torch_nor_grpc(everything: Path) -> None:
    code = (
        "import sys; from retraced.cli.app import run; assert run(sys.argv[1:]) == 0\n"
        "assert not {'torch', 'numpy'} & sys.modules.keys(), sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code, "inspect", str(everything)], check=True, stdout=subprocess.DEVNULL)
