"""What calls of a program could leave set in the process that executes them."""

from __future__ import annotations

import torch


def region_state() -> tuple[object, ...]:
    """Return what regions set: autocast, levels of functorch and of forward derivatives, and whether gradients are recorded."""
    dual_level = torch._C._enter_dual_level()
    torch._C._exit_dual_level(dual_level)
    return (
        torch.is_autocast_enabled("cpu"),
        torch.get_autocast_dtype("cpu"),
        torch.is_autocast_cache_enabled(),
        torch._C._functorch.maybe_current_level(),
        dual_level,
        torch.is_grad_enabled(),
    )
