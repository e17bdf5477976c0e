"""The names of what programs call: operators of torch, and functions. torch finds each by `getattr`, and so reaches any function."""

from __future__ import annotations

import re
from typing import Final

_OPERATOR: Final = re.compile(r"torch\.ops\.([A-Za-z_]\w*)\.([A-Za-z_]\w*)\.([A-Za-z_]\w*)", re.ASCII)
_HIGHER_ORDER: Final = "torch.ops.higher_order."

DEFAULT_NAMESPACES: Final = frozenset(("aten", "prims", "prim", "quantized_decomposed", "onnx", "_c10d_functional"))
"""Namespaces of torch's own operators, of which each only computes: programs may hold them wherever they are read."""

PRIM: Final = frozenset(("device", "dtype", "layout"))
"""What programs may ask of a tensor, in TorchScript's own namespace `prim`. The rest runs Python, calls other machines, prints, profiles."""

SUBGRAPH_OPERATORS: Final = frozenset(
    (
        *("cond", "while_loop", "while_loop_stack_output", "map_impl", "scan", "associative_scan", "foreach_map", "out_dtype"),
        *(
            "wrap_with_set_grad_enabled",
            "wrap_with_autocast",
            "wrap",
            "wrap_activation_checkpoint",
            "tag_activation_checkpoint",
        ),
        *("invoke_subgraph", "strict_mode", "hints_wrapper", "flex_attention", "flex_attention_backward"),
        *("auto_functionalized", "auto_functionalized_v2", "run_and_save_rng_state", "run_with_rng_state"),
    )
)
"""Higher-order operators that do what their subgraphs do, and the operators among their arguments."""

HIGHER_ORDER: Final = SUBGRAPH_OPERATORS | {"with_effects", "print", "_export_tracepoint"}
"""Higher-order operators that compute with graphs, operators and plain values. Not here: what holds compiled code, objects or functions."""

ORDERED: Final = frozenset(("print",))
"""Those of them that stand as an argument, of `with_effects`, which orders them."""

SYM_FUNCTIONS: Final = (
    *("_operator.eq", "_operator.ne", "_operator.le", "_operator.ge", "_operator.lt", "_operator.gt", "_operator.neg"),
    *("_operator.pos", "_operator.mul", "_operator.add", "_operator.sub", "_operator.floordiv", "_operator.mod"),
    *("_operator.pow", "_operator.truediv", "_operator.and_", "_operator.or_", "_operator.lshift", "_operator.rshift"),
    *("math.trunc", "torch.sym_not", "torch.sym_int", "torch.sym_float", "torch.sym_ite", "torch.sym_max", "torch.sym_min"),
    "torch._sym_sqrt",
)
"""The functions that compute with sizes, `_SYM_OPS` of torch/_export/serde/serialize.py."""

_PREDISPATCH: Final = (
    *("_vmap_increment_nesting", "_vmap_decrement_nesting", "_jvp_increment_nesting", "_jvp_decrement_nesting"),
    *("_enter_dual_level", "_exit_dual_level", "lazy_load_decompositions", "_add_batch_dim", "_remove_batch_dim", "_make_dual"),
    *("_unpack_dual", "_unwrap_for_grad"),
)
FUNCTIONS: Final = (
    *SYM_FUNCTIONS,
    *("torch._C._set_grad_enabled", "torch.amp.autocast_mode._enter_autocast", "torch.amp.autocast_mode._exit_autocast"),
    *(f"torch._functorch.predispatch.{name}" for name in _PREDISPATCH),
)
"""Functions that torch's verifier allows beside operators and that torch can read back. Not here: what imports the function that a text names,
`_call_custom_autograd_function_in_pre_dispatch`."""


def split_operator(name: str) -> tuple[str, str, str] | None:
    """Return the namespace, name and overload of an operator of `torch.ops`; None for any other name."""
    match = _OPERATOR.fullmatch(name)
    return None if match is None else (match[1], match[2], match[3])


def higher_order_name(name: str) -> str | None:
    """Return the name of a higher-order operator within its namespace; None for any other name."""
    rest = name.removeprefix(_HIGHER_ORDER)
    return rest if rest != name and rest.isidentifier() else None
