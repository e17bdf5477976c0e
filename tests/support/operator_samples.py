"""Programs of one call each, of the samples that torch tests its operators with (torch/testing/_internal/opinfo)."""

from __future__ import annotations

import functools
import itertools
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.export import Dim
from torch.utils import _pytree as pytree

from .case import Inputs, ProgramCase

_DTYPES = (torch.float32, torch.int64, torch.bool, torch.complex64)
# Of more samples than these the rest is like them.
_LOOKED_AT = 24
SAMPLES = 2
"""How many samples of each operator are taken: the first, and the last of those that are looked at."""


class _Call(nn.Module):
    """Calls a function with the tensors that it is given, and with what else its sample has."""

    def __init__(self, function: Any, leaves: list[Any], spec: Any) -> None:
        super().__init__()
        self._function, self._leaves, self._spec = function, leaves, spec

    def forward(self, *tensors: torch.Tensor) -> Any:
        waiting = iter(tensors)
        leaves = [next(waiting) if isinstance(leaf, torch.Tensor) else leaf for leaf in self._leaves]
        args, kwargs = pytree.tree_unflatten(leaves, self._spec)
        return self._function(*args, **kwargs)


@functools.cache
def _operators() -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Takes many seconds.
        from torch.testing._internal.common_methods_invocations import op_db
    return {f"{op.name}.{op.variant_test_name}" if op.variant_test_name else op.name: op for op in op_db}


def sample_names() -> Iterator[str]:
    """The names of all samples: operator, number of the sample, and whether sizes are dynamic."""
    for name, number, sizes in itertools.product(_operators(), range(SAMPLES), ("static", "dynamic")):
        yield f"{name}/{number}/{sizes}"


def sample_case(name: str) -> ProgramCase:
    """The program of a sample by name.

    Raises:
        LookupError: The operator has no such sample.
    """
    operator, number, sizes = name.rsplit("/", 2)
    op, sample = _operators()[operator], _sample(operator, int(number))
    leaves, spec = pytree.tree_flatten(((sample.input, *sample.args), sample.kwargs))
    tensors = tuple(leaf.detach() for leaf in leaves if isinstance(leaf, torch.Tensor))
    inputs: list[Inputs] = [(tensors, {})]
    shapes = None
    if sizes == "dynamic":
        # Sizes of 0 and 1 are never dynamic.
        shapes = (tuple({dim: Dim.AUTO for dim, size in enumerate(tensor.shape) if size > 1} for tensor in tensors),)
    return ProgramCase(name, functools.partial(_Call, op.op, leaves, spec), lambda: inputs, shapes)


def _sample(operator: str, number: int) -> Any:
    op = _operators()[operator]
    dtype = next((dtype for dtype in _DTYPES if dtype in op.supported_dtypes("cpu")), None)
    if dtype is None:
        raise LookupError(f"{operator} has no samples of the usual types")
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        samples = list(itertools.islice(op.sample_inputs("cpu", dtype), _LOOKED_AT))
    if number >= len(samples):
        raise LookupError(f"{operator} has {len(samples)} samples")
    return samples[-1 if number else 0]
