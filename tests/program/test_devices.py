"""Programs exported on devices that this machine does not have."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import fx
from torch._subclasses import FakeTensor
from torch.utils import _pytree as pytree

from retraced_server.passes import run_pipeline
from retraced_server.program import write_model
from tests.program.archives import model_of, read_bytes, records, replaced, written
from tests.support.case import ProgramCase
from tests.support.compare import loaded
from tests.support.describe import values
from tests.support.models import by_name

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="these programs are for a device that is not here")


def _exported_on_cuda(case: ProgramCase) -> bytes:
    """The archive that the same export on CUDA would have given, as far as devices go."""
    return replaced(case.archive, '"type": "cpu", "index": null', '"type": "cuda", "index": 0')


def test_torch_cannot_read_it() -> None:
    with pytest.raises(Exception, match=r"(?i)cuda"):
        loaded(_exported_on_cuda(by_name("bert")))


def test_values_and_weights_are_on_their_device(serializable_case: ProgramCase, tmp_path: Path) -> None:
    program = read_bytes(_exported_on_cuda(serializable_case), tmp_path).program
    cuda = torch.device("cuda", 0)
    assert {leaf.device for _, leaf in values(program) if isinstance(leaf, FakeTensor)} <= {cuda}
    for tensor in (*program.state_dict.values(), *program.constants.values()):
        assert isinstance(tensor, FakeTensor)
        assert tensor.device == cuda


def test_it_is_written_with_its_devices_and_its_weights(serializable_case: ProgramCase, tmp_path: Path) -> None:
    archive = _exported_on_cuda(serializable_case)
    source = read_bytes(archive, tmp_path)
    expected = model_of(archive)
    written_model = json.loads(write_model(source.program))
    # The range of a symbol that occurs nowhere in the graph is lost, as it is with torch.
    expected["range_constraints"] = {
        name: bounds for name, bounds in expected["range_constraints"].items() if name in written_model["range_constraints"]
    }
    assert written_model == expected
    before, after = records(archive), records(written(source.program, tmp_path / "out.pt2", source=source))
    del before["archive/.data/serialization_id"], after["archive/.data/serialization_id"]
    assert after == before


@pytest.mark.parametrize("name", ["residual_net", "cond", "containers", "multiple_results"])
def test_its_operators_run_on_fake_tensors(name: str, tmp_path: Path) -> None:
    program = read_bytes(_exported_on_cuda(by_name(name)), tmp_path).program
    for node in program.graph.nodes:
        if node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload):
            assert _devices(_executed(node)) <= {torch.device("cuda", 0)}


@pytest.mark.parametrize("name", ["vit", "bert"])
def test_its_attention_is_executed_again(name: str, tmp_path: Path) -> None:
    program = read_bytes(_exported_on_cuda(by_name(name)), tmp_path).program
    assert run_pipeline(program, "retrace", mode="full").program is program


@pytest.mark.parametrize("name", ["everything", "residual_net", "tied_weights", "vit"])
def test_it_is_decomposed_with_its_devices_and_weights(name: str, tmp_path: Path) -> None:
    source = read_bytes(_exported_on_cuda(by_name(name)), tmp_path)
    program = run_pipeline(source.program, "decompose,cse,dce").program
    assert program is not source.program
    assert {leaf.device for _, leaf in values(program) if isinstance(leaf, FakeTensor)} == {torch.device("cuda", 0)}
    assert all(source.program.state_dict[name] is weight for name, weight in program.state_dict.items())
    inputs = [n.meta["val"].requires_grad for n in program.graph.find_nodes(op="placeholder")]
    assert inputs == [n.meta["val"].requires_grad for n in source.program.graph.find_nodes(op="placeholder")]
    before, after = records(_exported_on_cuda(by_name(name))), records(written(program, tmp_path / "out.pt2", source=source))
    assert {key: data for key, data in after.items() if "/weights/" in key} == {
        key: data for key, data in before.items() if "/weights/" in key
    }


def _executed(node: fx.Node) -> Any:
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda argument: argument.meta["val"])
    target: Any = node.target
    modes = [leaf.fake_mode for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, FakeTensor)]
    with modes[0] if modes else nullcontext(), torch.no_grad():
        return target(*args, **kwargs)


def _devices(value: Any) -> set[torch.device]:
    return {leaf.device for leaf in pytree.tree_leaves(value) if isinstance(leaf, torch.Tensor)}
