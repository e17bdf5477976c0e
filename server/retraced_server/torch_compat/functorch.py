"""Regions of a graph: levels of functorch, autocast, and whether gradients are recorded, with the functions that begin and end them."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch._C import _is_any_autocast_enabled as is_any_autocast_enabled
from torch._C._functorch import get_dynamic_layer_stack_depth as functorch_depth
from torch._C._functorch import get_unwrapped, is_functorch_wrapped_tensor
from torch._C._functorch import pop_dynamic_layer_stack_and_undo_to_depth as leave_functorch_levels
from torch._functorch import predispatch

__all__ = [
    "ADD_BATCH_DIM",
    "ENTER_AUTOCAST",
    "ENTER_DUAL",
    "ENTER_JVP",
    "ENTER_VMAP",
    "EXIT_AUTOCAST",
    "EXIT_DUAL",
    "EXIT_JVP",
    "EXIT_VMAP",
    "LAZY_LOAD_DECOMPOSITIONS",
    "MAKE_DUAL",
    "REMOVE_BATCH_DIM",
    "SET_GRAD_ENABLED",
    "UNPACK_DUAL",
    "UNWRAP_FOR_GRAD",
    "functorch_depth",
    "is_any_autocast_enabled",
    "is_functorch_wrapped_tensor",
    "leave_functorch_levels",
    "unwrapped",
]

# Functions, which torch gives no types.
SET_GRAD_ENABLED: Final[Any] = torch._C._set_grad_enabled
ENTER_AUTOCAST: Final[Any] = torch.amp.autocast_mode._enter_autocast
EXIT_AUTOCAST: Final[Any] = torch.amp.autocast_mode._exit_autocast
ENTER_VMAP: Final[Any] = predispatch._vmap_increment_nesting
EXIT_VMAP: Final[Any] = predispatch._vmap_decrement_nesting
ENTER_JVP: Final[Any] = predispatch._jvp_increment_nesting
EXIT_JVP: Final[Any] = predispatch._jvp_decrement_nesting
ENTER_DUAL: Final[Any] = predispatch._enter_dual_level
EXIT_DUAL: Final[Any] = predispatch._exit_dual_level
LAZY_LOAD_DECOMPOSITIONS: Final[Any] = predispatch.lazy_load_decompositions
ADD_BATCH_DIM: Final[Any] = predispatch._add_batch_dim
REMOVE_BATCH_DIM: Final[Any] = predispatch._remove_batch_dim
MAKE_DUAL: Final[Any] = predispatch._make_dual
UNPACK_DUAL: Final[Any] = predispatch._unpack_dual
UNWRAP_FOR_GRAD: Final[Any] = predispatch._unwrap_for_grad


def unwrapped(tensor: torch.Tensor) -> torch.Tensor:
    """Return what is in a tensor that functorch has wrapped, however often; any other as it is."""
    while is_functorch_wrapped_tensor(tensor):
        tensor = get_unwrapped(tensor)
    return tensor
