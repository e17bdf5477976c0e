"""What calls of a program could leave set in the process that executes them."""

from __future__ import annotations

import torch
from torch.autograd import forward_ad


def region_state() -> tuple[object, ...]:
    """Return what regions set: autocast, levels of functorch and of forward derivatives, and whether gradients are recorded."""
    return (
        torch.is_autocast_enabled("cpu"),
        torch.get_autocast_dtype("cpu"),
        torch.is_autocast_cache_enabled(),
        torch._C._functorch.maybe_current_level(),
        forward_ad._current_level,
        torch.is_grad_enabled(),
    )
