"""What operators write to is known to passes, also where their schemas do not say so: each is executed, and its arguments are looked at."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import fx, nn
from torch._ops import OpOverload
from torch.utils import _pytree as pytree

from retraced_server.analysis.effects import written_arguments
from retraced_server.errors import RetracedError
from retraced_server.passes import run_pipeline
from tests.passes.support import export, targets
from tests.support.compare import assert_same_results

aten = torch.ops.aten
_SWITCHES = {"training", "train", "update", "use_input_stats"}
# For each name of an argument what it is given; tensors are made anew for each call.
_ROWS, _COLUMNS = 4, 3
_VALUES: dict[str, Any] = {
    **dict.fromkeys(("input", "grad_out", "grad_output", "self"), lambda: torch.rand(_ROWS, _COLUMNS) + 0.5),
    **dict.fromkeys(("weight", "bias", "mean", "invstd", "running_mean", "running_var"), lambda: torch.rand(_COLUMNS) + 0.5),
    **dict.fromkeys(("save_mean", "save_var", "save_invstd", "save_var_transform"), lambda: torch.rand(_COLUMNS) + 0.5),
    **dict.fromkeys(("running_min", "running_max", "scale"), lambda: torch.rand(1) + 0.5),
    **dict.fromkeys(("zero_point",), lambda: torch.zeros(1, dtype=torch.int32)),
    **dict.fromkeys(("observer_on", "fake_quant_on"), lambda: torch.ones(1, dtype=torch.long)),
    **dict.fromkeys(("reserve", "reserveSpace", "reservedSpace"), lambda: torch.empty(0, dtype=torch.uint8)),
    "counts": lambda: torch.full((1,), float(_ROWS)),
    **dict.fromkeys(("momentum", "exponential_average_factor", "averaging_const"), lambda: 0.5),
    **dict.fromkeys(("eps", "epsilon"), lambda: 1e-5),
    **dict.fromkeys(("ch_axis", "impl_index", "quant_min"), lambda: 0),
    "quant_max": lambda: 255,
    "count": lambda: _ROWS,
    "output_mask": lambda: [True, True, True],
    "cudnn_enabled": lambda: False,
}


def _with_running_statistics() -> Iterator[OpOverload]:
    for schema in torch._C._jit_get_all_schemas():
        namespace, _, name = schema.name.partition("::")
        if namespace == "aten" and any(argument.name.startswith("running_") for argument in schema.arguments):
            yield getattr(getattr(aten, name), schema.overload_name or "default")


def _arguments(op: OpOverload, switch: bool) -> dict[str, Any]:
    given: dict[str, Any] = {}
    outs = []
    for argument in op._schema.arguments:
        if argument.is_out:
            outs.append(argument.name)
        elif argument.name in _SWITCHES:
            given[argument.name] = switch
        elif argument.name in _VALUES or not argument.has_default_value():
            given[argument.name] = _VALUES[argument.name]()
    if outs:
        results = op.overloadpacket.default(**pytree.tree_map_only(torch.Tensor, torch.clone, given))
        given.update((name, torch.empty_like(result).fill_(7)) for name, result in zip(outs, results, strict=False))
    return given


def _known_to_be_written(op: OpOverload, given: dict[str, Any]) -> set[str]:
    graph = fx.Graph()
    nodes = {name: graph.placeholder(name) if isinstance(value, torch.Tensor) else value for name, value in given.items()}
    node = graph.call_function(op, kwargs=nodes)
    return {str(written.target) for written in written_arguments(fx.GraphModule(nn.Module(), graph), node)}


def _written(op: OpOverload, given: dict[str, Any]) -> set[str]:
    before = pytree.tree_map_only(torch.Tensor, torch.clone, given)
    op(**given)
    return {name for name, value in given.items() if isinstance(value, torch.Tensor) and not torch.equal(value, before[name])}


def _is_run_here(op: OpOverload) -> bool:
    return not op._opname.startswith(("cudnn", "miopen", "batch_norm_gather_stats"))


@pytest.mark.parametrize("switch", [True, False])
@pytest.mark.parametrize("op", [op for op in _with_running_statistics() if _is_run_here(op)], ids=str)
def test_operator_on_running_statistics_writes_what_is_known_of_it(op: OpOverload, switch: bool) -> None:
    given = _arguments(op, switch)
    known, written = _known_to_be_written(op, given), _written(op, given)
    assert written == known if not op._schema.is_mutable else written <= known


@pytest.mark.parametrize("switch", [True, False])
@pytest.mark.parametrize("op", [op for op in _with_running_statistics() if not _is_run_here(op)], ids=str)
def test_operator_on_running_statistics_that_other_devices_run_writes_them_unless_it_is_told_not_to(
    op: OpOverload, switch: bool
) -> None:
    names = {argument.name for argument in op._schema.arguments}
    known = _known_to_be_written(
        op, {name: torch.empty(0) for name in names - _SWITCHES} | dict.fromkeys(_SWITCHES & names, switch)
    )
    writes = not op._opname.endswith("_backward") and (switch or not _SWITCHES & names)
    assert ("running_mean" in known, "running_var" in known) == (writes, writes)


class _Counts(nn.Module):
    mean: torch.Tensor
    var: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(_COLUMNS))
        self.register_buffer("var", torch.ones(_COLUMNS))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        before = x + self.mean
        aten.batch_norm_update_stats.default(x, self.mean, self.var, 0.5)
        return before, x + self.mean


def test_write_that_no_schema_states_stays_and_what_is_read_after_it_is_read_again() -> None:
    x = torch.ones(_ROWS, _COLUMNS)
    program = export(_Counts(), x)
    result = run_pipeline(program, "cse,dce").program
    assert targets(result)["aten.batch_norm_update_stats"] == 1
    assert_same_results(program, result, [((x,), {})], exact=True)
    with pytest.raises(RetracedError, match="takes functional programs, and this node writes to its arguments"):
        run_pipeline(program, "view-to-view-copy")


def test_renormalised_embedding_is_written_to() -> None:
    # Export records the operator that it is composed of; a pass may call it.
    op = aten._no_grad_embedding_renorm_.default
    given = {"weight": torch.full((_ROWS, 2), 5.0), "input": torch.arange(_ROWS), "max_norm": 1.0, "norm_type": 2.0}
    assert not op._schema.is_mutable
    assert _known_to_be_written(op, given) == _written(op, given) == {"weight"}
