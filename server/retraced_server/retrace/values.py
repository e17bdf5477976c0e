"""Recorded values: when two say the same, and how symbols in them are renamed."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from typing import Any

import sympy
import torch

from retraced_server.torch_compat.fake_tensors import FakeTensor, view_of
from retraced_server.torch_compat.functorch import is_functorch_wrapped_tensor, unwrapped
from retraced_server.torch_compat.pytree import pytree
from retraced_server.torch_compat.symbolic_shapes import ShapeEnv, python_type, symbolic_number

SYMBOLIC = (torch.SymInt, torch.SymFloat, torch.SymBool)


def expression(value: Any) -> Any:
    """Return the sympy expression of a symbolic number, with known equalities applied; a plain number as it is."""
    return value.node.expr if isinstance(value, SYMBOLIC) else value


def free_symbols(value: Any) -> dict[sympy.Symbol, ShapeEnv]:
    """All symbols in a value: in its sizes, strides and offset, or in its expression; with their shape environment."""
    found: dict[sympy.Symbol, ShapeEnv] = {}
    for leaf in pytree.tree_leaves(value):
        for number in _numbers(leaf):
            if isinstance(number, SYMBOLIC):
                for symbol in number.node.expr.free_symbols:
                    found[symbol] = number.node.shape_env
    return found


def _numbers(leaf: Any) -> Iterator[Any]:
    if isinstance(leaf, torch.Tensor):
        yield from leaf.shape
        if leaf.layout is torch.strided:
            yield from leaf.stride()
            yield leaf.storage_offset()
    else:
        yield leaf


def logical(tensor: torch.Tensor) -> torch.Tensor:
    """Return what operators see of a tensor: of one that functorch has wrapped, a fake tensor of the wrapper's sizes and strides."""
    if not is_functorch_wrapped_tensor(tensor):
        return tensor
    inner = unwrapped(tensor)
    if not isinstance(inner, FakeTensor):
        return torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype, device=tensor.device)
    return view_of(inner, tuple(tensor.size()), tuple(tensor.stride()), inner.storage_offset())


def same_metadata(a: Any, b: Any, *, requires_grad: bool = True) -> bool:
    """Whether two values say the same to every operator: for tensors dtype, device, layout, sizes, strides, offset, conj, neg.

    Args:
        a: A value.
        b: Another.
        requires_grad: Whether `requires_grad` must agree too.
    """
    if a is b:
        return True
    if isinstance(a, torch.Tensor):
        if type(a) is not type(b) and isinstance(b, torch.Tensor):
            a, b = logical(a), logical(b)
        if (
            type(a) is not type(b)
            or a.dtype is not b.dtype
            or a.device != b.device
            or a.layout is not b.layout
            or a.dim() != b.dim()
            or (requires_grad and a.requires_grad != b.requires_grad)
            or not all(map(_same_number, a.shape, b.shape))
        ):
            return False
        if a.layout is torch.strided and not (
            all(map(_same_number, a.stride(), b.stride())) and _same_number(a.storage_offset(), b.storage_offset())
        ):
            return False
        return bool(a.is_conj() == b.is_conj() and a.is_neg() == b.is_neg())
    if isinstance(a, (tuple, list)):
        return (
            isinstance(b, (tuple, list))
            and len(a) == len(b)
            and all(same_metadata(x, y, requires_grad=requires_grad) for x, y in zip(a, b, strict=True))
        )
    if isinstance(a, SYMBOLIC) or isinstance(b, SYMBOLIC):
        return type(a) is type(b) and _same_number(a, b)
    return type(a) is type(b) and bool(a == b)


def metadata_key(value: Any) -> Hashable:
    """Return a key that is equal for two values where `same_metadata` says that they are the same.

    Raises:
        TypeError: The value holds what has no hash.
    """
    if isinstance(value, torch.Tensor):
        strides = (*value.stride(), value.storage_offset()) if value.layout is torch.strided else ()
        sizes, placed = (tuple(map(expression, numbers)) for numbers in (value.shape, strides))
        signs = value.is_conj(), value.is_neg()
        return type(value), value.dtype, value.device, value.layout, value.requires_grad, sizes, placed, signs
    if isinstance(value, (tuple, list)):
        return tuple(map(metadata_key, value))
    key: Hashable = (type(value), expression(value))
    hash(key)
    return key


def _same_number(a: Any, b: Any) -> bool:
    if isinstance(a, SYMBOLIC) or isinstance(b, SYMBOLIC):
        return bool(expression(a) == expression(b))
    return bool(a == b)


def keeps_symbols(before: Any, after: Any) -> bool:
    """Return whether a value's symbolic sizes, or the symbolic number that it is, are in another value what they were."""
    old, new = (value.shape if isinstance(value, torch.Tensor) else (value,) for value in (before, after))
    symbolic = [place for place, size in enumerate(old) if isinstance(size, SYMBOLIC)]
    return not symbolic or (len(old) == len(new) and all(_same_number(old[place], new[place]) for place in symbolic))


def rename_symbols(value: Any, renaming: dict[sympy.Symbol, sympy.Expr], env: ShapeEnv) -> Any:
    """Rebuild a value with other symbols in its sizes, strides, offset and expressions.

    Tensors become fresh fake tensors of the same mode; values without the symbols stay the objects that they are.
    """

    def number(old: Any) -> Any:
        if not isinstance(old, SYMBOLIC) or not (old.node.expr.free_symbols & renaming.keys()):
            return old
        return symbolic_number(env, python_type(old), old.node.expr.xreplace(renaming))

    def leaf(old: Any) -> Any:
        if not isinstance(old, FakeTensor):
            return number(old)
        if not free_symbols(old).keys() & renaming.keys():
            return old
        with env.suppress_guards(), old.fake_mode:
            return torch.empty_strided(
                [number(size) for size in old.shape],
                [number(stride) for stride in old.stride()],
                dtype=old.dtype,
                device=old.device,
            )

    return pytree.tree_map(leaf, value)


def match_symbols(
    fresh: set[sympy.Symbol], value: Any, recorded: Any, *, accept: Callable[[sympy.Symbol], bool]
) -> dict[sympy.Symbol, sympy.Expr]:
    """Find which recorded symbol stands where each fresh one stands.

    Args:
        fresh: Symbols that an operator has just made.
        value: Its result.
        recorded: The value recorded for the node.
        accept: Says which recorded symbols may be taken.

    Returns:
        The fresh symbols for which one was found, with their counterparts.
    """
    found: dict[sympy.Symbol, sympy.Expr] = {}
    new, old = pytree.tree_leaves(value), pytree.tree_leaves(recorded)
    if len(new) != len(old):
        return found
    for a, b in zip(new, old, strict=True):
        if isinstance(a, torch.Tensor) is not isinstance(b, torch.Tensor):
            continue
        for x, y in zip(_numbers(a), _numbers(b), strict=False):
            if not isinstance(x, SYMBOLIC) or not isinstance(y, SYMBOLIC):
                continue
            made, known = _symbol(x), _symbol(y)
            if made in fresh and made not in found and known is not None and accept(known):
                found[made] = known
    return found


def _symbol(value: Any) -> sympy.Symbol | None:
    expr = value.node.expr
    if isinstance(expr, sympy.Symbol):
        return expr
    # torch writes a SymBool over an unbacked integer as Eq(u, 1).
    if isinstance(expr, sympy.Eq) and isinstance(expr.lhs, sympy.Symbol):
        return expr.lhs
    return None
