"""Reasons once, before the first job, about sizes that many programs have, so that their jobs find it in the caches of sympy and torch.

Torch names the symbol of a dynamic size after the argument that has it, so an argument's name gives the same symbol in every program. A
worker is forked with all that sympy remembers: comparisons of sizes and strides, each of which costs it milliseconds when it is new.
Programs whose symbols have other names miss that, and gain from what torch asks of ranges, in symbols of its own, all the same.
"""

from __future__ import annotations

import torch

from retraced_server.torch_compat.fake_tensors import FakeTensorMode, disable_fake_tensor_cache
from retraced_server.torch_compat.symbolic_shapes import (
    DimDynamic,
    LocalSource,
    ShapeEnv,
    StatelessSymbolicContext,
    SymbolicContext,
)

# Those of transformers that torch names sizes after, and what most modules call theirs.
USUAL_ARGUMENTS = ("attention_mask", "input_ids", "decoder_input_ids", "x")
_HIDDEN, _HEADS = 768, 12


def prewarm_symbolic_caches() -> None:
    """Copy fake tensors whose sizes are those of a batch of sequences on their way through a transformer."""
    for argument in USUAL_ARGUMENTS:
        mode = FakeTensorMode(allow_non_fake_inputs=True, shape_env=ShapeEnv())
        dynamic: SymbolicContext = StatelessSymbolicContext([DimDynamic.DYNAMIC] * 2)
        mask = mode.from_tensor(torch.empty(5, 7), source=LocalSource(argument), symbolic_context=dynamic)
        batch, length = mask.shape
        # Without the cache, as when a pass makes a node (retrace.fake_result_cache).
        with disable_fake_tensor_cache(mode), mode, torch.no_grad():
            hidden = torch.empty((batch, length, _HIDDEN))
            heads = hidden.view(batch, length, _HEADS, -1).transpose(1, 2)
            scores = torch.empty((batch, _HEADS, length, length))
            parts = mask[:, None, None], hidden[:, 0], scores[:, :1], scores[:1, :1], scores[0, 0]
            for tensor in (mask, hidden, heads, scores, *parts):
                tensor.clone()
