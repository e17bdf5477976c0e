"""What shares storage with arguments is known to the reader and to passes, also where schemas do not say so: each operator is executed."""

from __future__ import annotations

import logging
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import fx, nn
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils import _pytree as pytree

from retraced_server.analysis.alias_sets import aliased_arguments
from retraced_server.program.aliases import Aliases
from retraced_server.program.fake_tensors import FakeTensors
from retraced_server.program.operator_lists import listed_operators
from retraced_server.program.symbols import Symbols
from retraced_server.torch_compat.operators import is_composite

aten = torch.ops.aten
_SHAPES: tuple[tuple[int, ...], ...] = ((4, 4), (3,), (2, 3, 4), (1,), (), (1, 3), (1, 1, 4, 4), (0,))
_TEXTS = ("ij->ji", "i->i", "...->...", "ij,jk->ik", "ii->i", "none", "mean", "constant")
# The reader takes their results for new: it executes no operator whose work is in its sizes, and none that makes sparse tensors.
_READ_AS_NEW = {aten.cumprod_backward.default, aten.to_sparse.default}


class _UnknownKindError(Exception):
    """Nothing is given for arguments of a kind."""


def _silent() -> Iterator[OpOverload]:
    """Yield the operators that programs may hold, that write to nothing, and whose schemas tell of no alias."""
    for name in sorted(listed_operators()):
        namespace, packet, overload = name.split(".")
        if namespace not in ("aten", "prims"):
            continue
        op = getattr(getattr(getattr(torch.ops, namespace), packet), overload)
        results = op._schema.returns
        if results and not op._schema.is_mutable and all(result.alias_info is None for result in results):
            yield op


# JIT types, whose classes torch does not declare.
def _value(kind: Any, real: str, shape: tuple[int, ...], chosen: random.Random) -> Any:
    name = kind.kind()
    if name == "OptionalType":
        return None if chosen.random() < 0.6 else _value(kind.getElementType(), real, shape, chosen)
    if name == "ListType":
        return [_value(kind.getElementType(), real, shape, chosen) for _ in range(chosen.choice((0, 1, 1, 2, len(shape))))]
    if name == "TensorType":
        dtype = torch.float32 if chosen.random() < 0.75 else chosen.choice((torch.int64, torch.bool, torch.complex64))
        return torch.empty(shape if chosen.random() < 0.8 else chosen.choice(_SHAPES), dtype=dtype)
    for word, value in (("ScalarType", torch.float32), ("Layout", torch.strided), ("MemoryFormat", torch.preserve_format)):
        if word in real:
            return value
    values: dict[str, tuple[Any, ...]] = {
        **dict.fromkeys(("IntType", "SymIntType"), (0, 0, 1, 1, 2, -1, 3, *shape)),
        **dict.fromkeys(("FloatType", "NumberType"), (0.0, 0.5, 1.0)),
        **dict.fromkeys(("BoolType", "SymBoolType"), (True, False)),
        **dict.fromkeys(("GeneratorType", "NoneType"), (None,)),
        "StringType": _TEXTS,
        "DeviceObjType": (torch.device("cpu"),),
    }
    if name not in values:
        raise _UnknownKindError
    return chosen.choice(values[name])


def _arguments(op: OpOverload, seed: int) -> tuple[list[Any], dict[str, Any]]:
    chosen = random.Random(f"{op}:{seed}")
    shape = chosen.choice(_SHAPES)
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for argument in op._schema.arguments:
        if argument.has_default_value() and chosen.random() < 0.5:
            if not argument.kwarg_only:
                args.append(argument.default_value)
            continue
        value = _value(argument.type, str(argument.real_type), shape, chosen)
        if argument.kwarg_only:
            kwargs[argument.name] = value
        else:
            args.append(value)
    return args, kwargs


def _storage(value: Any) -> int | None:
    try:
        return value.untyped_storage()._cdata if isinstance(value, torch.Tensor) and value.layout is torch.strided else None
    # A tensor at a level of vmap has none.
    except NotImplementedError:
        return None


def _static(size: int | torch.SymInt) -> int | None:
    return size if isinstance(size, int) else None


class _Called:
    """A call, executed on fake tensors, and the node that stands for it in a graph."""

    def __init__(self, op: OpOverload, symbols: Symbols, args: list[Any], kwargs: dict[str, Any]) -> None:
        self.args, self.kwargs = pytree.tree_map_only(torch.Tensor, symbols.mode.from_tensor, (args, kwargs))
        with symbols.mode, torch.no_grad():
            self.results = pytree.tree_leaves(op(*self.args, **self.kwargs))
        graph = fx.Graph()

        def placeholder(tensor: FakeTensor) -> fx.Node:
            node = graph.placeholder("x")
            node.meta["val"] = tensor
            return node

        args, kwargs = pytree.tree_map_only(torch.Tensor, placeholder, (self.args, self.kwargs))
        self.node = graph.call_function(op, tuple(args), kwargs)
        self.node.meta["val"] = tuple(self.results)

    def shared(self) -> list[int | None]:
        """Return for each result the storage that it has of an argument."""
        owned = {_storage(leaf) for leaf in pytree.tree_leaves((self.args, self.kwargs))} - {None}
        # What has no elements has nothing that a write would change.
        held = [
            None if isinstance(leaf, torch.Tensor) and 0 in map(_static, leaf.shape) else _storage(leaf)
            for leaf in self.results
        ]
        return [storage if storage in owned else None for storage in held]


def _calls(op: OpOverload, symbols: Symbols, count: int) -> Iterator[_Called]:
    for seed in range(count):
        try:
            yield _Called(op, symbols, *_arguments(op, seed))
        # Whatever an operator makes of arguments that do not fit it.
        except Exception:  # noqa: BLE001
            continue


def _read(call: _Called, symbols: Symbols) -> list[int | None]:
    """Return for each result the storage that the reader gives it of an argument."""
    bases = Aliases(symbols, FakeTensors(symbols)).bases(call.node, nn.Module())
    return [_storage(bases[min(at, len(bases) - 1)]) if bases else None for at in range(len(call.results))]


def _is_known(shared: list[int | None], read: list[int | None]) -> bool:
    """Return whether what shares storage is read so. More may be: with symbols about, torch copies where it need not, as in `reshape`."""
    return all(storage is None or storage == known for storage, known in zip(shared, read, strict=True))


@pytest.mark.slow
def test_results_that_share_storage_are_known_to_be_though_no_schema_says_so() -> None:
    symbols = Symbols({})
    sharing: set[OpOverload] = set()
    unknown: dict[str, str] = {}
    with warnings.catch_warnings(), _without_logs():
        warnings.simplefilter("ignore")
        for op in _silent():
            for call in _calls(op, symbols, 12 if is_composite(op) else 3):
                shared = call.shared()
                if any(shared):
                    sharing.add(op)
                if set(shared) - {None} - {_storage(argument.meta["val"]) for argument in aliased_arguments(call.node)}:
                    unknown[f"{op} to passes"] = str((call.args, call.kwargs))
                if op not in _READ_AS_NEW and not _is_known(shared, _read(call, symbols)):
                    unknown[f"{op} to the reader"] = str((call.args, call.kwargs))
    assert not unknown
    # These were met.
    assert sharing >= {
        aten.einsum.default,
        aten.unsafe_split.Tensor,
        aten.native_dropout.default,
        aten.lift.default,
        *_READ_AS_NEW,
    }


@contextmanager
def _without_logs() -> Iterator[None]:
    """Keep torch from logging each call that does not fit, with its traceback."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


@pytest.mark.parametrize(
    ("equation", "shapes", "is_view"),
    [("ij->ji", [(2, 3)], True), ("ii->i", [(3, 3)], True), ("ij->i", [(2, 3)], False), ("i,i->i", [(3,), (3,)], False)],
)
def test_einsum_of_one_operand_is_read_as_the_view_that_it_is(
    equation: str, shapes: list[tuple[int, ...]], is_view: bool
) -> None:
    symbols = Symbols({})
    call = _Called(aten.einsum.default, symbols, [equation, [torch.empty(shape) for shape in shapes]], {})
    (storage,) = _read(call, symbols)
    assert (storage is not None) == is_view
    assert [storage] == call.shared()
