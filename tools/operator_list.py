"""The rules that say which operators programs may hold, and the list that they make of the torch that is installed.

`python -m tools.operator_list` writes the list into `server/retraced_server/program/operator_lists`; a test makes it again and compares. The
diff of a new torch version is what there is to review.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import torch
from torch._ops import OpOverload

from retraced_server.errors import RetracedError
from retraced_server.program import operator_lists
from retraced_server.program.functions import PRIM
from retraced_server.program.namespaces import DEFAULT_NAMESPACES
from retraced_server.program.operator_lists.unlisted import UNLISTED
from retraced_server.program.operators import check_harmless

LIST: Final = Path(operator_lists.__file__).with_name(operator_lists.LIST_NAME)

# Where torch's own export, decompositions and compilers name the private operators that they emit or meet.
_COMPILERS: Final = (
    *("_decomp", "_export", "_functorch", "_higher_order_ops", "_inductor", "_meta_registrations.py", "_prims", "_refs"),
    *("_subclasses", "export", "fx", "onnx"),
)
_PRIVATE: Final = re.compile(r"\baten(?:\.|::)(_[a-z0-9]\w*)")


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
    is_met = _is_public(op) or _is_for_lists(op) or _has_python_kernel(op) or op._opname in _named_by_compilers()
    return is_met and not _is_made_for_out(op)


def _is_public(op: OpOverload) -> bool:
    """Whether no underscore says that an operator is for torch's own use; those of `__and__` and its like do not."""
    return not op._opname.startswith("_") or op._opname.startswith("__")


def _is_for_lists(op: OpOverload) -> bool:
    """Whether an operator computes the same for each tensor of a list, as those that torch.optim and torch.nn.utils call."""
    return op._opname.startswith("_foreach_")


def _has_python_kernel(op: OpOverload) -> bool:
    """Whether torch says in Python what an operator computes or gives, as it does of what its compilers meet."""
    tables = torch._decomp.global_decomposition_table
    return torch.Tag.core in op.tags or any(op in tables[kind] for kind in ("post_autograd", "meta"))


@functools.cache
def _named_by_compilers() -> frozenset[str]:
    """The private operators that the sources of torch's export, decompositions and compilers name."""
    root = Path(torch.__file__).parent
    files = [file for name in _COMPILERS for file in ([root / name] if name.endswith(".py") else (root / name).rglob("*.py"))]
    return frozenset(name for file in files for name in _PRIVATE.findall(file.read_text(encoding="utf-8")))


def _is_made_for_out(op: OpOverload) -> bool:
    """Whether torch's build generates an operator only so that there is one with `out=`: no function of Python calls it."""
    return torch.Tag.generated in op.tags and any(argument.is_out for argument in op._schema.arguments)


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
