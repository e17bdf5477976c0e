"""`decompose` gives node for node what torch's own decompositions give: a slice of `python -m benchmarks.exactness`, which does all of it."""

from __future__ import annotations

import pytest

from benchmarks.exactness.judge import Table, Verdict
from benchmarks.exactness.run import Item, judge_item

pytestmark = pytest.mark.slow

# Operators that decompose in one way or another, views and writes among them, with static and with dynamic sizes.
_SAMPLES = (
    *("nn.functional.linear/0/dynamic", "nn.functional.layer_norm/0/dynamic", "nn.functional.gelu/0/static"),
    *("nn.functional.scaled_dot_product_attention/0/static", "nn.functional.batch_norm/0/static", "addcmul/0/dynamic"),
    *("nn.functional.cross_entropy/0/static", "var_mean/0/dynamic", "index_fill/0/static", "tril/1/dynamic"),
    *("split/0/static", "fill/0/dynamic", "nn.functional.pad.reflect/0/dynamic", "bernoulli/0/static"),
    *("fft.fftshift/0/dynamic", "tensor_split/1/dynamic", "diag/1/dynamic", "nn.functional.fractional_max_pool3d/0/dynamic"),
)


def _assert_exact(*verdicts: Verdict) -> None:
    failed = [f"{v.source}: {v.name}: {v.outcome} {v.error} {v.numbers} {v.differences}" for v in verdicts if v.is_finding]
    assert not failed, "\n".join(failed)
    assert all(verdict.outcome != "not exported" for verdict in verdicts)


@pytest.mark.parametrize("seed", range(6))
def test_random_program_is_decomposed_as_by_torch(seed: int) -> None:
    _assert_exact(judge_item(Item("random", str(seed), "core-aten")))


@pytest.mark.parametrize("name", ["ConvNextModel", "SiglipVisionModel"])
def test_public_model_is_decomposed_as_by_torch(name: str) -> None:
    _assert_exact(judge_item(Item("models", name, "core-aten")))


# One test: torch's samples take many seconds to import.
def test_operators_are_decomposed_as_by_torch() -> None:
    _assert_exact(*(judge_item(Item("operators", name, "core-aten")) for name in _SAMPLES))


@pytest.mark.parametrize("table", ["aten", "none"])
@pytest.mark.parametrize("name", ["in_place", "nested", "symbolic_scalars"])
def test_other_tables_decompose_as_by_torch(name: str, table: Table) -> None:
    _assert_exact(judge_item(Item("programs", name, table)))
