"""Tree specs of a program's arguments and results, when inputs or outputs are added or removed."""

from __future__ import annotations

from collections.abc import Sequence

from retraced_server.retrace.errors import ExportPassError
from retraced_server.torch_compat.pytree import pytree

TreeSpec = pytree.TreeSpec


def drop_leaves(spec: TreeSpec, dropped: set[int], what: str) -> TreeSpec:
    """Remove leaves from a tree spec.

    Args:
        spec: The spec.
        dropped: The positions of the leaves, in flattening order.
        what: What a leaf is, for the error.

    Raises:
        ExportPassError: A leaf is in a container that cannot lose it, such as a named tuple.
    """
    if not dropped:
        return spec
    result = _drop(spec, 0, dropped, what)
    if result is None:
        raise ExportPassError(f"the only {what} cannot be removed")
    return result


def _drop(spec: TreeSpec, start: int, dropped: set[int], what: str) -> TreeSpec | None:
    if spec.is_leaf():
        return None if start in dropped else spec
    children: list[TreeSpec] = []
    kept: list[int] = []
    for at, child in enumerate(spec.children()):
        smaller = _drop(child, start, dropped, what)
        start += child.num_leaves
        if smaller is not None:
            children.append(smaller)
            kept.append(at)
    if len(kept) == spec.num_children:
        return TreeSpec(spec.type, spec.context, children)
    if spec.type in (tuple, list):
        return TreeSpec(spec.type, spec.context, children)
    if spec.type is dict:
        return TreeSpec(dict, [spec.context[at] for at in kept], children)
    raise ExportPassError(f"a {what} inside a {spec.type.__name__} cannot be removed: the container's shape is fixed")


def append_arguments(in_spec: TreeSpec, count: int) -> TreeSpec:
    """Add positional arguments, each a single leaf, to the spec of `(args, kwargs)`."""
    args, kwargs = in_spec.children()
    args = TreeSpec(tuple, args.context, [*args.children(), *[pytree.treespec_leaf() for _ in range(count)]])
    return TreeSpec(in_spec.type, in_spec.context, [args, kwargs])


def append_results(out_spec: TreeSpec, count: int) -> TreeSpec:
    """Add results at the end: a tuple of results grows; any other structure becomes the first item of a tuple."""
    leaves = [pytree.treespec_leaf() for _ in range(count)]
    if out_spec.type is tuple:
        return TreeSpec(tuple, out_spec.context, [*out_spec.children(), *leaves])
    return TreeSpec(tuple, None, [out_spec, *leaves])


def positional_leaves(in_spec: TreeSpec) -> int:
    """How many leaves the positional arguments of a spec of `(args, kwargs)` have."""
    return in_spec.children()[0].num_leaves


def dropped_parameters(in_spec: TreeSpec, dropped: set[int], names: Sequence[str]) -> list[str]:
    """Return the names of a callable's parameters that are left when leaves are removed from its arguments; an emptied container stays."""
    args, kwargs = in_spec.children()
    kept, start = [], 0
    for name, child in zip(names, [*args.children(), *kwargs.children()], strict=False):
        if not (child.is_leaf() and start in dropped):
            kept.append(name)
        start += child.num_leaves
    return kept
