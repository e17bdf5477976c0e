"""Operators that are left out of the list after review, whatever its rules say of them, each with the reason.

A packet, such as `aten.quantized_lstm_cell`, stands for all its overloads.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

_CRASHES: Final = "its native code trusts its arguments, and ends the process with some"

_PACKED: Final = "it works on weights packed for one processor, which no archive holds, and its native code reads data that fake tensors lack"

UNLISTED: Final[Mapping[str, str]] = dict.fromkeys(
    (
        "aten._remove_batch_dim",
        "aten._thnn_differentiable_gru_cell_backward",
        "aten._thnn_differentiable_lstm_cell_backward",
        "aten._sobol_engine_initialize_state_",
        "aten._stack",
        "aten.quantized_lstm_cell",
        "aten.fractional_max_pool2d_backward",
        "aten._foreach_copy",
        "aten._new_zeros_with_same_feature_meta",
        "aten._batch_norm_impl_index_backward",
        "aten._nnpack_spatial_convolution",
        "aten.range.out",
    ),
    _CRASHES,
) | dict.fromkeys(
    (
        "aten.fbgemm_linear_fp16_weight",
        "aten.fbgemm_linear_fp16_weight_fp32_activation",
        "aten.fbgemm_linear_int8_weight",
        "aten.fbgemm_linear_int8_weight_fp32_activation",
        "aten.fbgemm_linear_quantize_weight",
        "aten.fbgemm_pack_gemm_matrix_fp16",
        "aten.fbgemm_pack_quantized_matrix",
    ),
    _PACKED,
)
"""Why an operator is not on the list, by its name or that of its packet."""


def why_unlisted(name: str) -> str:
    """Return why an operator, such as `aten._stack.default`, is not on the list, as the rest of a sentence."""
    packet, _, _ = name.rpartition(".")
    return UNLISTED.get(name) or UNLISTED.get(packet) or "torch.export and its decompositions emit none of that name"
