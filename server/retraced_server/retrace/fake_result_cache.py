"""Memoize fake-tensor results by operator and argument metadata: layers of a network repeat, and so do a pipeline's passes."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch

from retraced_server.analysis.storages import storages
from retraced_server.analysis.targets import acts_on_regions, overload_of
from retraced_server.retrace.descriptions import Descriptions
from retraced_server.retrace.values import free_symbols
from retraced_server.torch_compat.fake_tensors import (
    FakeTensor,
    FakeTensorMode,
    alias_of,
    copy_with_own_storage,
    disable_fake_tensor_cache,
    view_of,
)
from retraced_server.torch_compat.functorch import is_any_autocast_enabled
from retraced_server.torch_compat.operators import is_builtin
from retraced_server.torch_compat.shape_env_transaction import ShapeEnvTransaction

# Each takes a kilobyte or two.
_MOST = 4096


@dataclass(frozen=True, slots=True)
class Fresh:
    """A tensor with a storage of its own: like a meta tensor, whose sizes torch has looked at already."""

    template: torch.Tensor
    device: torch.device


@dataclass(frozen=True, slots=True)
class View:
    """A tensor with the storage of an argument, with other sizes, strides or offset."""

    argument: int
    size: tuple[Any, ...]
    stride: tuple[Any, ...]
    offset: Any


@dataclass(frozen=True, slots=True)
class Alias:
    """A tensor that says what an argument says, with its storage."""

    argument: int


Part = Fresh | View | Alias | None


@dataclass(frozen=True, slots=True)
class FakeResult:
    """What an operator gives for arguments of a description.

    Attributes:
        kind: `tuple` or `list` where it gives several values; else of no meaning.
        parts: The values.
    """

    kind: type[Any]
    parts: tuple[Part, ...]


_OF_MODES: WeakKeyDictionary[FakeTensorMode, dict[Hashable, FakeResult]] = WeakKeyDictionary()


class FakeResultCache:
    """Memoize the results of fake operators by operator and description of the arguments.

    A fake operator's result depends on nothing but the metadata of its arguments and what is known of their symbols; torch's own cache of
    fake operators rests on that too, and asks torch about the sizes of each tensor that it makes. Left out are operators that write, that make
    symbols or numbers, those that taught the shape environment something when they were executed, and custom ones, whose fake kernels may
    look at anything.

    Results are known to all passes of one program, as long as its shape environment is not put back.

    Args:
        fake_mode: The program's fake mode.
        transaction: What happens to the program's shape environment.
        descriptions: Describes arguments.
        bypassed: Execute every operator, as `full` mode does, which others are judged by.
    """

    def __init__(
        self, fake_mode: FakeTensorMode, transaction: ShapeEnvTransaction, descriptions: Descriptions, *, bypassed: bool
    ) -> None:
        self._fake_mode = fake_mode
        self._transaction = transaction
        self._descriptions = descriptions
        self._bypassed = bypassed
        self._known = _OF_MODES.setdefault(fake_mode, {})

    # Arguments and values are whatever an operator takes and returns.
    def get(self, target: Any, args: Any, kwargs: Any, execute: Callable[[], Any]) -> Any:
        """Return the result of an operator.

        Args:
            target: The operator.
            args: Its arguments as data.
            kwargs: Its keyword arguments as data.
            execute: Executes it.
        """
        if self._bypassed:
            return self._execute(execute)
        tensors: list[FakeTensor] = []
        key = self._key(target, args, kwargs, tensors)
        if key is None:
            return self._execute(execute)
        found = self._known.get(key)
        if found is not None:
            return self._make(found, tensors)
        value = self._execute(execute)
        if key[-1] == self._transaction.mark():
            self._learn(key, self._result(value, (args, kwargs), tensors))
        return value

    # As are those of a call that was executed elsewhere.
    def describe(self, target: Any, args: Any, kwargs: Any, value: Any) -> FakeResult | None:
        """Return what an operator gave for arguments; None for what is not memoized."""
        tensors: list[FakeTensor] = []
        key = None if self._bypassed else self._key(target, args, kwargs, tensors)
        return None if key is None else self._result(value, (args, kwargs), tensors)

    def expect(self, target: Any, args: Any, kwargs: Any, result: FakeResult) -> None:
        """Have an operator give a result for arguments of these descriptions, unless it is known what it gives."""
        key = None if self._bypassed else self._key(target, args, kwargs, [])
        if key is not None and key not in self._known:
            self._learn(key, result)

    def _learn(self, key: Hashable, result: FakeResult | None) -> None:
        if result is not None:
            if len(self._known) >= _MOST:
                self._known.clear()
            self._known[key] = result

    def _result(self, value: Any, arguments: Any, tensors: list[FakeTensor]) -> FakeResult | None:
        if not free_symbols(value).keys() <= free_symbols(arguments).keys():
            return None
        return self._described(value, tensors)

    def _execute(self, execute: Callable[[], Any]) -> Any:
        # What torch's cache asks may make guards that the operator does not need, in one mode and not in the other.
        with disable_fake_tensor_cache(self._fake_mode):
            return execute()

    def _key(self, target: Any, args: Any, kwargs: Any, tensors: list[FakeTensor]) -> tuple[Hashable, ...] | None:
        op, call = overload_of(target), self._descriptions.call(target, args, kwargs, tensors)
        # Without a tensor, the default device counts; autocast sets what no description says, and what leaves a region depends on the region;
        # and a hook that has enabled gradients would be given views that have them.
        if (
            op is None
            or call is None
            or not is_builtin(op)
            or acts_on_regions(target)
            or not tensors
            or is_any_autocast_enabled()
            or torch.is_grad_enabled()
        ):
            return None
        return call, torch.get_default_dtype(), self._transaction.mark()

    def _described(self, value: Any, tensors: list[FakeTensor]) -> FakeResult | None:
        kind = type(value)
        values = value if kind in (tuple, list) else (value,)
        given: dict[int, int] = {}
        for position, tensor in enumerate(tensors):
            (storage,) = storages(tensor)
            # Of two arguments with one storage, another call may be given two with two.
            given[storage] = position if storage not in given else -1
        parts: list[Part] = []
        made: set[int] = set()
        for each in values:
            if each is None:
                parts.append(None)
                continue
            if not _is_plain(each):
                return None
            (storage,) = storages(each)
            argument = given.get(storage)
            if argument == -1 or storage in made:
                return None
            if argument is None:
                made.add(storage)
                parts.append(Fresh(copy_with_own_storage(each), each.device))
            elif self._says_the_same(each, tensors[argument]):
                parts.append(Alias(argument))
            elif _reads_otherwise(each, tensors[argument]):
                return None
            else:
                parts.append(View(argument, tuple(each.shape), tuple(each.stride()), each.storage_offset()))
        return FakeResult(kind, tuple(parts))

    def _says_the_same(self, value: FakeTensor, argument: FakeTensor) -> bool:
        return self._descriptions.describe(value) == self._descriptions.describe(argument)

    def _make(self, result: FakeResult, tensors: list[FakeTensor]) -> Any:
        values = [self._tensor(part, tensors) for part in result.parts]
        return result.kind(values) if result.kind in (tuple, list) else values[0]

    def _tensor(self, part: Part, tensors: list[FakeTensor]) -> FakeTensor | None:
        if part is None:
            return None
        if isinstance(part, Alias):
            return alias_of(tensors[part.argument])
        mode = self._fake_mode
        if isinstance(part, Fresh):
            return FakeTensor(mode, copy_with_own_storage(part.template), part.device)
        return view_of(tensors[part.argument], part.size, part.stride, part.offset)


def _reads_otherwise(view: FakeTensor, argument: FakeTensor) -> bool:
    """Whether a plain view takes the numbers in the storage for something else than the argument does, as `view_as_real` does."""
    return view.dtype is not argument.dtype or argument.is_conj() or argument.is_neg()


def _is_plain(value: Any) -> bool:
    return (
        type(value) is FakeTensor
        and value.constant is None
        and value.layout is torch.strided
        and not (value.requires_grad or value.is_conj() or value.is_neg() or value.is_quantized)
    )
