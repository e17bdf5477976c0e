"""Integers of calls that torch's native code would trust: they are refused, or the call is not executed, and nothing ends the process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from retraced_server.errors import Reason, RetracedError
from retraced_server.program.argument_checks import check_arguments, integers_fit
from retraced_server.program.options import MOST_ITEMS
from tests.program.archives import edited, read_bytes, saved

_aten = torch.ops.aten


class _Calls(torch.nn.Module):
    def __init__(self, call: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self._call = call

    def forward(self, x: torch.Tensor) -> Any:
        return self._call(x)


def _archive(call: Callable[[torch.Tensor], Any], argument: str, value: dict[str, Any]) -> bytes:
    """A program that calls an operator on a tensor of 4 by 6, with one argument of the call replaced."""

    def replace(model: Any) -> None:
        node = model["graph_module"]["graph"]["nodes"][0]
        (named,) = (named for named in node["inputs"] if named["name"] == argument)
        named["arg"] = value

    return edited(saved(torch.export.export(_Calls(call), (torch.ones(4, 6),))), replace)


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda x: x.sum(0, dtype=torch.float64), "dtype"),
        (lambda x: x.to(torch.float64), "dtype"),
        (lambda x: x.clone(memory_format=torch.contiguous_format), "memory_format"),
        (lambda x: torch.zeros_like(x, layout=torch.strided), "layout"),
    ],
)
@pytest.mark.parametrize("value", [{"as_int": 1000}, {"as_int": -1}, {"as_sym_int": {"as_int": 1000}}, {"as_bool": True}])
def test_number_in_the_place_of_an_enumeration_is_refused(
    call: Callable[[torch.Tensor], Any], argument: str, value: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(RetracedError, match=f"the argument `{argument}` is no ") as caught:
        read_bytes(_archive(call, argument, value), tmp_path)
    assert caught.value.reason is Reason.PROGRAM_INVALID


def _empty(*shape: int) -> torch.Tensor:
    return torch.empty(shape, device="meta")


@pytest.mark.parametrize(
    ("op", "args"),
    [
        *(
            (op, lambda count: (_empty(5, 2, 3), _empty(count, 2, 3), [], False, 1, 0.0, False, False, False))
            for op in (_aten.rnn_tanh.input, _aten.rnn_relu.input, _aten.gru.input)
        ),
        (_aten.lstm.data, lambda count: (_empty(9, 3), _empty(5), [_empty(count, 2, 3)] * 2, [], False, 1, 0.0, False, False)),
        (_aten.histogramdd.int_bins, lambda count: (_empty(7, count), 2)),
    ],
    ids=("rnn_tanh", "rnn_relu", "gru", "lstm", "histogramdd"),
)
def test_argument_that_an_operator_takes_apart_has_a_most(
    op: torch._ops.OpOverload, args: Callable[[int], tuple[Any, ...]]
) -> None:
    """torch made a tensor of each of a million layers before it compared their number: more than 20 seconds of a processor."""
    check_arguments(op, args(MOST_ITEMS), {}, lambda size: size)
    with pytest.raises(RetracedError, match=f"takes `(hx|self)` into {MOST_ITEMS + 1} apart") as caught:
        check_arguments(op, args(MOST_ITEMS + 1), {}, lambda size: size)
    assert caught.value.reason is Reason.PROGRAM_UNSUPPORTED


@pytest.mark.parametrize("shape", [(), (3,)])
@pytest.mark.parametrize("op", [_aten.batch_norm.default, _aten.instance_norm.default])
def test_tensor_without_channels_is_not_normalized(op: torch._ops.OpOverload, shape: tuple[int, ...]) -> None:
    """torch read a size that is not there, and crashed for some of what lay in its place."""
    rest = None, None, None, None, True, 0.1, 1e-5, True
    check_arguments(op, (_empty(2, 3), *rest), {}, lambda size: size)
    with pytest.raises(RetracedError, match=f"`input` has {len(shape)} dimensions") as caught:
        check_arguments(op, (_empty(*shape), *rest), {}, lambda size: size)
    assert caught.value.reason is Reason.PROGRAM_INVALID


@pytest.mark.parametrize("decimals", [401, -401, 2**62])
@pytest.mark.parametrize(
    "op", [_aten.round.decimals, _aten.round.decimals_out, _aten.round_.decimals, _aten.special_round.default]
)
def test_decimals_that_no_number_has_are_refused(op: torch._ops.OpOverload, decimals: int) -> None:
    """torch raised 10 to them, with all of its digits: a program of one call never ended."""
    check_arguments(op, (_empty(4),), {"decimals": 400}, lambda size: size)
    with pytest.raises(RetracedError, match=f"`decimals` is {decimals}") as caught:
        check_arguments(op, (_empty(4),), {"decimals": decimals}, lambda size: size)
    assert caught.value.reason is Reason.PROGRAM_UNSUPPORTED


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda x: x.reshape(2, 12), "shape"),
        (lambda x: x.flatten(0, 1), "start_dim"),
        (lambda x: x.flatten(0, 1), "end_dim"),
        (lambda x: x.sum_to_size(1, 6), "size"),
    ],
)
@pytest.mark.parametrize("value", [-(2**63), -3, 2**31, 2**63 - 1])
def test_view_by_integers_that_are_out_of_range_shares_no_storage(
    call: Callable[[torch.Tensor], Any], argument: str, value: int, tmp_path: Path
) -> None:
    whole = {"as_sym_ints": [{"as_int": value}] * 3} if argument in ("shape", "size") else {"as_int": value}
    x, result = _values(read_bytes(_archive(call, argument, whole), tmp_path).program.graph_module)
    assert x.untyped_storage()._cdata != result.untyped_storage()._cdata


def test_view_by_integers_in_range_shares_its_storage(tmp_path: Path) -> None:
    archive = _archive(lambda x: x.reshape(2, 12), "shape", {"as_sym_ints": [{"as_int": 2}, {"as_int": -1}]})
    x, result = _values(read_bytes(archive, tmp_path).program.graph_module)
    assert x.untyped_storage()._cdata == result.untyped_storage()._cdata


def _values(module: torch.fx.GraphModule) -> tuple[torch.Tensor, torch.Tensor]:
    x, call = (node.meta["val"] for node in list(module.graph.nodes)[:2])
    return x, call


@pytest.mark.parametrize(
    ("target", "args", "fit"),
    [
        (_aten.reshape.default, ([2, -1],), True),
        (_aten.reshape.default, ([0, 2**62],), True),
        (_aten.reshape.default, ([2**32, 2**32],), False),
        (_aten.reshape.default, ([1] * 65,), False),
        (_aten.flatten.using_ints, (-2, 1), True),
        (_aten.flatten.using_ints, (-2, 2), False),
        (_aten.native_channel_shuffle.default, (2,), True),
        (_aten.native_channel_shuffle.default, (0,), False),
        (_aten.dropout.default, (0.5, True), True),
    ],
)
def test_integers_of_an_executed_call_are_dimensions_counts_and_sizes(target: Any, args: tuple[Any, ...], fit: bool) -> None:
    assert integers_fit(target, (torch.empty(2, 3, device="meta"), *args), {}) is fit


@pytest.mark.parametrize(
    ("call", "size", "integers"),
    [
        (lambda x: _aten.unbind.int(x), MOST_ITEMS + 1, {}),
        (lambda x: _aten.unbind_copy.int(x), 2**31, {}),
        (lambda x: _aten.split.Tensor(x, 4), 2**31, {"split_size": 2}),
        (lambda x: _aten.chunk.default(x, 1), 0, {"chunks": 2**40}),
        (lambda x: _aten.tensor_split.sections(x, 1), 4, {"sections": 2**40}),
        (lambda x: _aten.hsplit.int(x, 1), 0, {"sections": 2**40}),
    ],
)
def test_list_of_more_tensors_than_can_be_made_is_refused(
    call: Callable[[torch.Tensor], Any], size: int, integers: dict[str, int], tmp_path: Path
) -> None:
    def enlarge(model: Any) -> None:
        graph = model["graph_module"]["graph"]
        graph["tensor_values"]["x"]["sizes"][0] = {"as_int": size}
        for named in graph["nodes"][0]["inputs"]:
            if named["name"] in integers:
                named["arg"] = {"as_int": integers[named["name"]]}

    archive = edited(saved(torch.export.export(_Calls(call), (torch.ones(4),))), enlarge)
    with pytest.raises(RetracedError, match=rf"gives \d+ tensors, and {MOST_ITEMS} are the most") as caught:
        read_bytes(archive, tmp_path)
    assert caught.value.reason is Reason.PROGRAM_UNSUPPORTED


def test_number_in_the_place_of_an_enumeration_is_refused_where_another_operator_makes_the_call(tmp_path: Path) -> None:
    def wrap(model: Any) -> None:
        node = model["graph_module"]["graph"]["nodes"][0]
        x = {"as_tensor": {"name": "x"}}
        operands = (x, {"as_operator": node["target"]}, x, {"as_ints": [0]}, {"as_bool": False})
        node["target"] = "torch.ops.higher_order.with_effects"
        node["inputs"] = [{"name": "", "arg": operand, "kind": 1} for operand in operands]
        node["inputs"].append({"name": "dtype", "arg": {"as_int": 1000}, "kind": 2})

    archive = edited(saved(torch.export.export(_Calls(lambda x: x.sum(0)), (torch.ones(4, 6),))), wrap)
    with pytest.raises(RetracedError, match="the argument `dtype` is no dtype") as caught:
        read_bytes(archive, tmp_path)
    assert caught.value.reason is Reason.PROGRAM_INVALID
