"""Operators whose results share storage with their arguments without a word of it in their schemas.

A test executes every operator that programs may hold, and compares.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Final, TypeAlias

import torch

from retraced_server.torch_compat.operators import OpOverload, OpOverloadPacket, base_name, is_composite, schema_of

Shared: TypeAlias = tuple[int | None, ...]
"""For each result, the position of the argument whose storage it has; the last one stands for all further results."""


def _packets(*names: str) -> frozenset[OpOverloadPacket]:
    return frozenset(getattr(torch.ops.aten, name) for name in names)


VIEWS: Final[Mapping[OpOverloadPacket, Shared]] = {
    **dict.fromkeys(
        _packets(
            *("_unsafe_view", "atleast_1d", "atleast_2d", "atleast_3d", "data", "lift"),
            *("unsafe_chunk", "unsafe_split", "unsafe_split_with_sizes", "unflatten_dense_tensors"),
        ),
        (0,),
    ),
    **dict.fromkeys(_packets("set"), (1,)),
    # What orders them is handed on by their kernels for meta tensors.
    **dict.fromkeys(_packets("_functional_assert_async"), (2,)),
    **dict.fromkeys(_packets("_functional_sym_constrain_range", "_functional_sym_constrain_range_for_size"), (3,)),
    **dict.fromkeys(_packets("_cudnn_rnn"), (None, None, None, None, 3)),
}
"""Operators that return arguments, or views of them."""
VIEWS_OF_EACH: Final = _packets("atleast_1d", "atleast_2d", "atleast_3d", "broadcast_tensors", "meshgrid")
"""Operators that return a view of each tensor in the list that is their first argument."""
DEPENDS: Final = _packets(
    *("reshape", "reshape_as", "flatten", "ravel", "contiguous", "to", "type_as", "conj_physical", "sum_to_size"),
    *("to_dense", "to_dense_backward", "to_mkldnn_backward"),
    *("dropout", "native_dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"),
    *("channel_shuffle", "native_channel_shuffle"),
    *("cartesian_prod", "einsum", "flatten_dense_tensors"),
)
"""Operators that return an argument, a view of it, or something new, by its sizes, strides and dtype."""
DEPENDS_ON_ONE: Final = _packets("cartesian_prod", "einsum", "flatten_dense_tensors")
"""Those of them that take a list of tensors, and make something new of more than one."""
# Composite operators may hand on an argument or a view of it, as dropout does in evaluation. These never do.
_FRESH_COMPOSITES: Final = frozenset(
    (
        *("__and__", "__or__", "__xor__", "adaptive_avg_pool2d", "batch_norm", "conv1d", "conv2d", "conv3d", "embedding"),
        *("group_norm", "layer_norm", "linear", "log_softmax", "matmul", "max_pool2d", "rms_norm"),
        *("scaled_dot_product_attention", "softmax", "where"),
    )
)


@cache
def may_hand_on(op: OpOverload) -> bool:
    """Return whether an operator may return an argument, or a view of one, that its schema does not tell of.

    Of an operator that torch composes of others it is assumed, unless it is known.
    """
    packet = op.overloadpacket
    # What `set_` returns has the storage of its second argument, and its schema has the first alone.
    if packet in VIEWS or packet in VIEWS_OF_EACH or packet in DEPENDS or packet is torch.ops.aten.set_:
        return True
    is_stated = any(result.alias_info is not None for result in schema_of(op).returns)
    return not is_stated and is_composite(op) and base_name(op) not in _FRESH_COMPOSITES
