"""The place where a batch dimension leaves a level of vmap is checked, and means what it means in torch."""

from __future__ import annotations

import pytest
import torch
from torch._functorch import predispatch

from retraced_server.torch_compat.batch_dims import _IMPL, check_batch_dims


@pytest.fixture(autouse=True)
def _checked(monkeypatch: pytest.MonkeyPatch) -> None:
    # Set to itself, so that it is set back.
    monkeypatch.setattr(predispatch, _IMPL, vars(predispatch)[_IMPL])
    check_batch_dims()


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("place", [-(2**63), -(2**40), -4, 3, 2**20, 2**40, 2**63 - 1])
def test_place_outside_of_the_tensor_is_an_error(place: int, batched: bool) -> None:
    """Of a tensor that is not of the level, torch writes there without a look: the process ends, or tells addresses as sizes."""
    level = predispatch._vmap_increment_nesting(3, "error")
    try:
        tensor = torch.empty(3, 4, 5)
        tensor = predispatch._add_batch_dim(tensor, 0, level) if batched else tensor[0]
        with pytest.raises(IndexError, match="a batch dimension can be at -3 to 2"):
            predispatch._remove_batch_dim(tensor, level, 3, place)
    finally:
        predispatch._vmap_decrement_nesting()


@pytest.mark.parametrize("place", range(-3, 3))
def test_result_of_vmap_is_that_of_torch(place: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.arange(60.0).reshape(3, 4, 5)
    checked = torch.vmap(torch.sin, out_dims=place)(x)
    monkeypatch.undo()
    torch.testing.assert_close(checked, torch.vmap(torch.sin, out_dims=place)(x))
    assert checked.shape == x.movedim(0, place).shape


@pytest.mark.parametrize("place", [0, -3])
def test_tensor_that_is_not_of_the_level_is_expanded_at_its_front(place: int) -> None:
    result = torch.vmap(lambda _: torch.ones(4, 5), out_dims=place)(torch.ones(3))
    assert result.shape == (3, 4, 5)
