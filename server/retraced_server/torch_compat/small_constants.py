"""Keeps fake execution from large real tensors.

torch executes an operator for real where all its tensors are constants of one element, since hooks make constants so, and looks at the size of
the result afterwards: `repeat` of such a constant takes as much memory as the program asks for, and a collective would talk to others. Here
only operators of torch's core namespaces are executed so, and each is first asked on meta tensors, which have no memory, how large its result
is; where it is large, it is executed on fake tensors only, as torch would in the end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import torch

from retraced_server.torch_compat.fake_tensors import Dispatch, FakeTensor, FakeTensorMode, no_dispatch, wrap_dispatch
from retraced_server.torch_compat.pytree import pytree

_CORE: Final = frozenset(("aten", "prims", "prim"))

LARGEST_CONSTANT: Final = 1024
"""Elements of a result that may be computed for real."""


def keep_constants_small() -> None:
    """Bound the real tensors of every fake mode of this process."""
    wrap_dispatch("keeps_constants_small", _bounded)


def _bounded(dispatch: Dispatch) -> Dispatch:
    # Any: a method of torch, whose arguments are any.
    def bounded(mode: FakeTensorMode, func: Any, types: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        constants = [
            leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, FakeTensor) and leaf.constant is not None
        ]
        if not constants or (getattr(func, "namespace", "") in _CORE and not _makes_large(func, args, kwargs)):
            return dispatch(mode, func, types, args, kwargs)
        with _hidden(constants):
            return dispatch(mode, func, types, args, kwargs)

    return bounded


def _makes_large(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    stand_ins, stand_in_kwargs = pytree.tree_map_only(torch.Tensor, _stand_in, (args, kwargs))
    try:
        with no_dispatch():
            results = func(*stand_ins, **stand_in_kwargs)
    # Whatever an operator makes of tensors without data, such as `item`: its results are as large as the data, or cannot be told.
    except Exception:  # noqa: BLE001
        return False
    return any(isinstance(leaf, torch.Tensor) and leaf.numel() > LARGEST_CONSTANT for leaf in pytree.tree_leaves(results))


def _stand_in(tensor: torch.Tensor) -> torch.Tensor:
    real = tensor.constant if isinstance(tensor, FakeTensor) else tensor
    with no_dispatch():
        return (
            torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
            if real is None
            else real.to("meta")
        )


@contextmanager
def _hidden(tensors: list[FakeTensor]) -> Iterator[None]:
    constants = [tensor.constant for tensor in tensors]
    for tensor in tensors:
        tensor.constant = None
    try:
        yield
    finally:
        for tensor, constant in zip(tensors, constants, strict=True):
            tensor.constant = constant
