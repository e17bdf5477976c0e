"""The rules that say which operators programs may hold, and the list that they make of the torch that is installed.

`python -m tools.operator_list` writes the list into `server/retraced_server/program/operator_lists`; a test makes it again and compares. The
diff of a new torch version is what there is to review.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import torch
from torch._ops import OpOverload

from retraced_pt2.operators import DEFAULT_NAMESPACES
from retraced_server.analysis.targets import PRIM, WITHIN_OPERATORS
from retraced_server.errors import RetracedError
from retraced_server.program import operator_lists
from retraced_server.program.operator_lists.unlisted import UNLISTED
from retraced_server.program.operators import check_harmless

LIST: Final = Path(operator_lists.__file__).with_name(operator_lists.LIST_NAME)

# Where torch's own export, decompositions and compilers name the private operators that they emit or meet, and where its functions of Python,
# which are what is exported, name those that they call.
_COMPILERS: Final = (
    *("_decomp", "_export", "_functorch", "_higher_order_ops", "_inductor", "_meta_registrations.py", "_prims", "_refs"),
    *("_subclasses", "export", "fx", "onnx"),
)
_FUNCTIONS: Final = (
    *("_tensor.py", "_VF.py", "autograd", "distributions", "fft", "functional.py", "linalg", "masked", "nested", "nn", "optim"),
    *("signal", "sparse", "special", "utils"),
)
_OF_COMPILERS: Final = re.compile(r"\baten(?:\.|::)(_[a-z0-9]\w*)")
_OF_FUNCTIONS: Final = re.compile(r"\b(?:aten|torch|_nested|_nn|_sparse|_VF)\.(_[a-z0-9]\w*)")
# What torch differentiates by a formula is what it records of a call that it composes of others, and what stands in a formula what it records
# of a gradient. torch's wheel has the formulas in torchgen.
_FORMULAS: Final = Path(torch.__file__).parents[1] / "torchgen" / "packaged" / "autograd" / "derivatives.yaml"
_OF_FORMULAS: Final = re.compile(r"\b_[a-z0-9]\w*")


def main() -> None:
    """Write the list."""
    names = make_list()
    LIST.write_text("".join(f"{name}\n" for name in names))
    print(f"{len(names)} operators in {LIST}")


def make_list() -> list[str]:
    """Return the names of the operators that the rules put on the list, sorted."""
    return sorted(str(op) for op in _registered() if _is_listed(op))


def _is_listed(op: OpOverload) -> bool:
    if not _is_harmless(op) or str(op) in UNLISTED or str(op.overloadpacket) in UNLISTED:
        return False
    # Small namespaces, of Python kernels or with meta kernels throughout.
    if op.namespace != "aten":
        return True
    if _is_made_for_out(op) or _fills_a_list(op) or op._opname.startswith("_test_"):
        return False
    is_of_kind = op._opname.startswith("_foreach_") or torch.Tag.view_copy in op.tags or op in WITHIN_OPERATORS
    # Functionalization makes the first of the second.
    is_named = not _named().isdisjoint((op._opname, f"{op._opname}_"))
    return _is_public(op) or is_of_kind or is_named or _has_python_kernel(op)


def _is_public(op: OpOverload) -> bool:
    """Whether no underscore says that an operator is for torch's own use; those of `__and__` and its like do not."""
    return not op._opname.startswith("_") or op._opname.startswith("__")


def _has_python_kernel(op: OpOverload) -> bool:
    """Whether torch says in Python what an operator computes or gives, as it does of what its compilers meet."""
    tables = torch._decomp.global_decomposition_table
    return torch.Tag.core in op.tags or any(op in tables[kind] for kind in ("post_autograd", "meta"))


@functools.cache
def _named() -> frozenset[str]:
    """Return the private operators that torch's compilers, its functions of Python and its formulas for gradients name."""
    of_formulas = _OF_FORMULAS.findall(_FORMULAS.read_text(encoding="utf-8"))
    return frozenset((*_named_in(_COMPILERS, _OF_COMPILERS), *_named_in(_FUNCTIONS, _OF_FUNCTIONS), *of_formulas))


def _named_in(places: Iterable[str], pattern: re.Pattern[str]) -> Iterator[str]:
    root = Path(torch.__file__).parent
    for place in places:
        for file in [root / place] if place.endswith(".py") else (root / place).rglob("*.py"):
            yield from pattern.findall(file.read_text(encoding="utf-8"))


def _is_made_for_out(op: OpOverload) -> bool:
    """Whether torch's build generates an operator only so that there is one with `out=`: no function of Python calls it."""
    return torch.Tag.generated in op.tags and any(argument.is_out for argument in op._schema.arguments)


def _fills_a_list(op: OpOverload) -> bool:
    """Whether an operator has a list for `out=`: functionalization reads as many results as the list is long, be there so many or not."""
    return any(argument.is_out and argument.type.kind() == "ListType" for argument in op._schema.arguments)


def _is_harmless(op: OpOverload) -> bool:
    try:
        check_harmless(op)
    except RetracedError:
        return False
    return True


def _registered() -> Iterator[OpOverload]:
    # The dispatcher does not tell of TorchScript's own, such as those of `prim`.
    for name in (*torch._C._dispatch_get_all_op_names(), *PRIM):
        namespace, _, rest = name.partition("::")
        packet, _, overload = rest.partition(".")
        if namespace in DEFAULT_NAMESPACES:
            found = getattr(getattr(getattr(torch.ops, namespace), packet, None), overload or "default", None)
            if isinstance(found, OpOverload):
                yield found


if __name__ == "__main__":
    main()
