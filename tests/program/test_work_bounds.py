"""Lists that an operator would take long over are refused; those of real programs are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from retraced_server.errors import Reason, RetracedError
from retraced_server.passes import run_pipeline
from retraced_server.program.options import MOST_ITEMS
from tests.program.archives import edited, read_bytes, saved
from tests.support.large_graphs import as_program, wide_fan_out
from tests.support.models import by_name

pytestmark = pytest.mark.slow

_X = {"name": "x"}
# An item of each list that an argument may be, with how often it stands in lists of its own.
_ITEMS: dict[str, Any] = {
    "as_tensors": _X,
    "as_optional_tensors": {"as_none": True},
    "as_ints": 1,
    "as_sym_ints": {"as_int": 1},
    "as_floats": 1.0,
    "as_sym_floats": {"as_float": 1.0},
    "as_bools": True,
    "as_sym_bools": {"as_bool": True},
    "as_strings": "x",
    "as_int_lists": [1],
    "as_float_lists": [1.0],
    "as_nested_tensors": [],
}


def _add(model: Any) -> Any:
    return next(node for node in model["graph_module"]["graph"]["nodes"] if "aten.add.Tensor" in node["target"])


def _error(argument: Any, tmp_path: Path) -> RetracedError:
    archive = edited(by_name("everything").archive, lambda model: _add(model)["inputs"][1].update(arg=argument))
    with pytest.raises(RetracedError) as caught:
        read_bytes(archive, tmp_path)
    return caught.value


@pytest.mark.parametrize("kind", _ITEMS)
def test_list_of_more_items_than_any_program_has_is_refused(kind: str, tmp_path: Path) -> None:
    error = _error({kind: [_ITEMS[kind]] * (MOST_ITEMS + 1)}, tmp_path)
    assert error.reason is Reason.PROGRAM_UNSUPPORTED
    assert f"{MOST_ITEMS} are the most" in error.message


@pytest.mark.parametrize(("kind", "item"), [("as_int_lists", 1), ("as_float_lists", 1.0), ("as_nested_tensors", _X)])
def test_list_in_a_list_is_bounded_alike(kind: str, item: Any, tmp_path: Path) -> None:
    assert f"{MOST_ITEMS} are the most" in _error({kind: [[item] * (MOST_ITEMS + 1)]}, tmp_path).message


def test_dictionary_is_bounded_alike(tmp_path: Path) -> None:
    entries = {str(number): {"as_int": 1} for number in range(MOST_ITEMS + 1)}
    assert f"{MOST_ITEMS} are the most" in _error({"as_string_to_argument": entries}, tmp_path).message


@pytest.mark.parametrize("is_list", [True, False])
def test_node_of_more_results_than_any_program_has_is_refused(is_list: bool, tmp_path: Path) -> None:
    def edit(model: Any) -> None:
        node = _add(model)
        result = node["outputs"][0]
        node["outputs"] = [{"as_tensors": [result["as_tensor"]] * (MOST_ITEMS + 1)}] if is_list else [result] * (MOST_ITEMS + 1)

    with pytest.raises(RetracedError, match=f"{MOST_ITEMS} are the most") as caught:
        read_bytes(edited(by_name("everything").archive, edit), tmp_path)
    assert caught.value.reason is Reason.PROGRAM_UNSUPPORTED


def test_program_that_takes_thousands_of_tensors_apart_and_together_is_read(tmp_path: Path) -> None:
    program = as_program(wide_fan_out(2 * 2_000))
    read = read_bytes(saved(program), tmp_path).program
    x = torch.rand(2_000, 4)
    (stacked,) = run_pipeline(read, "retrace,cse,dce").program.module()(x)
    torch.testing.assert_close(stacked, x)


class _Sum(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1


@pytest.mark.parametrize(("dimensions", "is_read"), [(2, True), (3, False)])
def test_sizes_of_one_value_that_are_laborious_to_multiply_are_refused(dimensions: int, is_read: bool, tmp_path: Path) -> None:
    """Each alone is within the bound; torch multiplies all of them to see how many elements there are."""

    def size(dimension: int) -> dict[str, Any]:
        symbols = ", ".join(f"Symbol('s{11 * dimension + number}', positive=True, integer=True)" for number in range(11))
        return {"as_expr": {"expr_str": f"Add({symbols})", "hint": {"as_int": 30}}}

    def grow(model: Any) -> None:
        tensor = model["graph_module"]["graph"]["tensor_values"]["add"]
        tensor["sizes"] = [size(dimension) for dimension in range(dimensions)]
        tensor["strides"] = [{"as_int": 1}] * dimensions

    archive = edited(saved(torch.export.export(_Sum(), (torch.ones(3),))), grow)
    if is_read:
        assert read_bytes(archive, tmp_path).program
        return
    with pytest.raises(RetracedError, match="more than 1024 terms when they are multiplied") as caught:
        read_bytes(archive, tmp_path)
    assert caught.value.reason is Reason.PROGRAM_UNSUPPORTED
