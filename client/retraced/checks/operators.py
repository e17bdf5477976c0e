"""Names of operators. Stock torch walks from module `torch`, `math` or `operator` to each by `getattr`, and so reaches any function.

Here a name is of a closed list, or of the pattern of an operator in a namespace of tensor operators, of the caller's own program, or that
the caller allows. What reads and writes files, calls other machines or handles objects is refused. Tests compare the lists with torch.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

from retraced.checks.refusal import Refused, shown
from retraced_pt2.operators import DEFAULT_NAMESPACES, FUNCTIONS, HIGHER_ORDER, ORDERED, PRIM, higher_order_name, split_operator

_LONGEST: Final = 1_024
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


class Operators:
    """Judges the names of operators.

    Args:
        namespaces: Namespaces of custom operators that are allowed.
    """

    def __init__(self, namespaces: Collection[str]) -> None:
        self._namespaces = DEFAULT_NAMESPACES | frozenset(namespaces)
        self._taken: set[str] = set()

    def check(self, name: Any) -> None:
        """Check the name of an operator.

        Raises:
            Refused: No program may hold the operator.
        """
        if type(name) is not str or len(name) > _LONGEST:
            raise Refused(f"{shown(name)} is no name of an operator")
        if name not in self._taken:
            self._check(name)
            self._taken.add(name)

    def check_argument(self, name: Any) -> None:
        """Check the name of an operator in the place of an argument, which may only be one of tensors.

        Raises:
            Refused: The text is no operator of tensors.
        """
        self.check(name)
        # `with_effects` is given what it orders.
        higher_order = higher_order_name(name)
        if name in FUNCTIONS or (higher_order is not None and higher_order not in ORDERED):
            raise Refused(f"{shown(name)} cannot be an argument")

    def _check(self, name: str) -> None:
        if name in FUNCTIONS or higher_order_name(name) in HIGHER_ORDER:
            return
        parts = split_operator(name)
        if parts is None:
            raise Refused(f"{shown(name)} is neither of torch.ops nor a function that programs may call")
        namespace, packet, overload = parts
        if namespace not in self._namespaces:
            raise Refused(
                f"the operator {shown(name)} is of a namespace that the program did not use before; `namespaces` can allow it"
            )
        if (
            packet in _ATTRIBUTES
            or overload in _ATTRIBUTES
            or (packet.startswith("__") and packet not in _SPECIAL)
            or overload.startswith("_")
        ):
            raise Refused(f"{shown(name)} is no operator")
        if namespace == "prim" and not (packet in PRIM and overload == "default"):
            raise Refused(f"the operator {shown(name)} does more than compute")
        if namespace == "aten" and (packet in _REFUSED or f"{packet}.{overload}" in _REFUSED_OVERLOADS):
            raise Refused(f"the operator {shown(name)} does more than compute")
