"""The table of a ShapeEnv's fields knows all of them, and what it says of them is so."""

from __future__ import annotations

import pytest
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from retraced_server.torch_compat.shape_env_fields import CACHED_METHODS, FIELDS, Field, fields


def test_every_field_of_a_shape_environment_is_sorted() -> None:
    assert vars(ShapeEnv()).keys() == FIELDS.keys()


@pytest.mark.parametrize("name", fields(Field.LEARNABLE, Field.CONTAINER, Field.ASSERTS))
def test_containers_can_be_emptied_and_filled_in_place(name: str) -> None:
    container = getattr(ShapeEnv(), name)
    assert hasattr(container, "clear")
    assert hasattr(container, "extend" if isinstance(container, list) else "update")


@pytest.mark.parametrize("name", fields(Field.LEARNABLE, Field.ASSERTS))
def test_facts_that_operators_add_to_are_dictionaries(name: str) -> None:
    assert isinstance(getattr(ShapeEnv(), name), dict)


@pytest.mark.parametrize("name", fields(Field.SCALAR))
def test_scalars_are_replaced_and_not_changed(name: str) -> None:
    assert not isinstance(getattr(ShapeEnv(), name), (dict, list, set))


@pytest.mark.parametrize("name", CACHED_METHODS)
def test_cached_methods_have_a_cache_to_clear(name: str) -> None:
    assert callable(getattr(ShapeEnv, name).cache_clear)


def test_no_other_method_has_a_cache_that_facts_go_into() -> None:
    cached = {name for name in vars(ShapeEnv) if hasattr(getattr(ShapeEnv, name), "cache_clear")}
    # It follows from the expression alone.
    assert cached - {"get_implications"} == set(CACHED_METHODS)
