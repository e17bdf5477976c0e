"""Checks where a batch dimension goes when a tensor leaves a level of vmap.

Of a tensor that is not of the level, torch's native code takes that place without a look, and writes outside of its list of sizes.
"""

from __future__ import annotations

from typing import Final

import torch
from torch._functorch import predispatch

_IMPL: Final = "_remove_batch_dim_impl"


def check_batch_dims() -> None:
    """Have the place of a batch dimension checked wherever this process removes one."""
    remove = vars(predispatch)[_IMPL]
    if getattr(remove, "checks_batch_dims", False):
        return

    def checked(tensor: torch.Tensor, level: int, batch_size: int, out_dim: int) -> torch.Tensor:
        rank = tensor.dim() + 1
        if not -rank <= out_dim < rank:
            raise IndexError(f"a batch dimension can be at {-rank} to {rank - 1} of this tensor, not at {out_dim}")
        result: torch.Tensor = remove(tensor, level, batch_size, out_dim % rank)
        return result

    vars(checked)["checks_batch_dims"] = True
    setattr(predispatch, _IMPL, checked)
