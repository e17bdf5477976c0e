"""Names of operators. Stock torch walks from module `torch`, `math` or `operator` to each by `getattr`, and so reaches any function.

Here a name is of a closed list, or of the pattern of an operator in a namespace of tensor operators, of the caller's own program, or that
the caller allows. What reads and writes files, calls other machines or handles objects is refused. Tests compare the lists with torch.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any, Final

from retraced.checks.refusal import Refused, shown

_LONGEST: Final = 1_024
_OPERATOR: Final = re.compile(r"torch\.ops\.([A-Za-z]\w*)\.([A-Za-z_]\w*)\.([A-Za-z]\w*)", re.ASCII)
_HIGHER_ORDER: Final = "torch.ops.higher_order."

NAMESPACES: Final = frozenset(("aten", "prims", "prim", "quantized_decomposed", "onnx", "_c10d_functional"))
"""Namespaces of torch's own operators that a server reads by default."""

PRIM: Final = frozenset(("device", "dtype", "layout"))
"""What programs may ask of a tensor, in TorchScript's own namespace `prim`. The rest runs Python, calls other machines, prints, profiles."""

HIGHER_ORDER: Final = frozenset(
    (
        *("cond", "while_loop", "while_loop_stack_output", "map_impl", "scan", "associative_scan", "foreach_map", "out_dtype"),
        *(
            "wrap_with_set_grad_enabled",
            "wrap_with_autocast",
            "wrap",
            "wrap_activation_checkpoint",
            "tag_activation_checkpoint",
        ),
        *("invoke_subgraph", "strict_mode", "hints_wrapper", "flex_attention", "flex_attention_backward", "with_effects"),
        *("auto_functionalized", "auto_functionalized_v2", "run_and_save_rng_state", "run_with_rng_state"),
        *("_export_tracepoint", "print"),
    )
)
"""Higher-order operators that compute with graphs, operators and plain values."""

ORDERED: Final = frozenset(("print",))
"""Those of them that stand as an argument, of `with_effects`, which orders them."""

_PREDISPATCH: Final = (
    *("_add_batch_dim", "_remove_batch_dim", "_vmap_increment_nesting", "_vmap_decrement_nesting", "lazy_load_decompositions"),
    *("_make_dual", "_unpack_dual", "_jvp_increment_nesting", "_jvp_decrement_nesting", "_unwrap_for_grad"),
    *("_enter_dual_level", "_exit_dual_level"),
)
FUNCTIONS: Final = frozenset(
    (
        *(
            f"_operator.{name}"
            for name in (
                *("eq", "ne", "le", "ge", "lt", "gt", "neg", "pos", "mul", "add", "sub", "floordiv", "mod", "pow", "truediv"),
                *("and_", "or_", "lshift", "rshift"),
            )
        ),
        "math.trunc",
        *("torch.sym_not", "torch.sym_int", "torch.sym_float", "torch.sym_ite", "torch.sym_max", "torch.sym_min"),
        *("torch._sym_sqrt", "torch._C._set_grad_enabled"),
        *("torch.amp.autocast_mode._enter_autocast", "torch.amp.autocast_mode._exit_autocast"),
        *(f"torch._functorch.predispatch.{name}" for name in _PREDISPATCH),
    )
)
"""Functions beside operators that may stand in a program. Not here: `_call_custom_autograd_function_in_pre_dispatch`, which imports."""

_SPECIAL: Final = frozenset(
    (
        *("__not__", "__ior__", "__iand__", "__ixor__", "__or__", "__and__", "__xor__", "__lshift__", "__rshift__"),
        *("__ilshift__", "__irshift__", "__contains__", "__getitem__"),
        *("__upsample", "__upsample_bilinear", "__upsample_nearest", "__interpolate"),
        *("__derive_index", "__range_length", "__round_to_zero_floordiv"),
    )
)
# Of torch's own classes, and no operators.
_ATTRIBUTES: Final = frozenset(("name", "op", "overloads", "schema"))
_REFUSED: Final = frozenset(
    (
        *("save", "from_file", "warn", "record_stream", "qscheme"),
        *("_cufft_set_plan_cache_max_size", "_cufft_clear_plan_cache", "dist_backward"),
        *("confirmed_by_owner", "get_gradients", "is_owner", "local_value", "owner", "owner_name", "to_here", "wait"),
        *("Delete", "_set_item", "_unwrap_optional", "append", "clear", "dict", "extend", "get", "hash", "insert", "items"),
        *("keys", "pop", "popitem", "reverse", "setdefault", "str", "update", "format", "percentFormat", "has_torch_function"),
    )
)
_REFUSED_OVERLOADS: Final = frozenset(
    (
        *(f"__contains__.{kind}" for kind in ("Tensor", "bool", "complex", "float", "int", "str")),
        *(f"values.{kind}" for kind in ("Tensor", "bool", "complex", "float", "int", "str")),
        *(
            f"{packet}.Dict_{kind}"
            for packet in ("__getitem__", "copy", "len")
            for kind in ("Tensor", "bool", "complex", "float", "int", "str")
        ),
        *(f"{packet}.t" for packet in ("__getitem__", "add", "add_", "copy", "len", "list", "mul_", "select", "slice")),
        *(f"{packet}.any" for packet in ("dequantize", "len", "sort", "sorted")),
        *(f"{packet}.{part}" for packet in ("quantized_gru", "quantized_lstm") for part in ("data", "input")),
        *(f"set.source_Storage{rest}" for rest in ("", "_out", "_storage_offset", "_storage_offset_out")),
        *("set_.source_Storage", "set_.source_Storage_storage_offset", "mul.left_t", "mul.right_", "eq.enum", "ne.enum"),
        *("as_tensor.list", "tensor.default", "einsum.sublist"),
    )
)


def split_operator(name: str) -> tuple[str, str, str] | None:
    """The namespace, name and overload of an operator of `torch.ops`; None for any other name."""
    match = _OPERATOR.fullmatch(name)
    return None if match is None else (match[1], match[2], match[3])


class Operators:
    """Judges the names of operators.

    Args:
        namespaces: Namespaces of custom operators that are allowed.
    """

    def __init__(self, namespaces: Collection[str]) -> None:
        self._namespaces = NAMESPACES | frozenset(namespaces)
        self._taken: set[str] = set()

    def check(self, name: Any) -> None:
        """The name of an operator.

        Raises:
            Refused: It is none that may stand in a program.
        """
        if type(name) is not str or len(name) > _LONGEST:
            raise Refused(f"{shown(name)} is no name of an operator")
        if name not in self._taken:
            self._check(name)
            self._taken.add(name)

    def check_argument(self, name: Any) -> None:
        """The name of an operator in the place of an argument, which may only be one of tensors.

        Raises:
            Refused: It is none.
        """
        self.check(name)
        # `with_effects` is given what it orders.
        if name in FUNCTIONS or (name.startswith(_HIGHER_ORDER) and name.removeprefix(_HIGHER_ORDER) not in ORDERED):
            raise Refused(f"{shown(name)} cannot be an argument")

    def _check(self, name: str) -> None:
        if name in FUNCTIONS or (name.startswith(_HIGHER_ORDER) and name.removeprefix(_HIGHER_ORDER) in HIGHER_ORDER):
            return
        parts = split_operator(name)
        if parts is None:
            raise Refused(f"{shown(name)} is neither of torch.ops nor a function that programs may call")
        namespace, packet, overload = parts
        if namespace not in self._namespaces:
            raise Refused(
                f"the operator {shown(name)} is of a namespace that the program did not use before; `namespaces` can allow it"
            )
        if packet in _ATTRIBUTES or overload in _ATTRIBUTES or (packet.startswith("__") and packet not in _SPECIAL):
            raise Refused(f"{shown(name)} is no operator")
        if namespace == "prim" and not (packet in PRIM and overload == "default"):
            raise Refused(f"the operator {shown(name)} does more than compute")
        if namespace == "aten" and (packet in _REFUSED or f"{packet}.{overload}" in _REFUSED_OVERLOADS):
            raise Refused(f"the operator {shown(name)} does more than compute")
