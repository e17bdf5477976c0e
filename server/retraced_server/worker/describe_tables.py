"""The tables that a stream of node metadata shares, and the batch that is being filled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import sympy
import torch

from retraced.v1 import node_metadata_pb2 as pb
from retraced_server.torch_compat.symbolic_shapes import (
    Symbolic,
    backed_values,
    expression_of,
    python_type,
    raw_expression,
    shape_env_of_value,
)
from retraced_server.worker.describe_symbols import Ranges, bounds, hint
from retraced_server.worker.describe_text import target_text
from retraced_server.worker.texts import utf8

# Keys of the tensor table: a size is itself; an expression is a tuple with its index, so that the two never compare equal.
_DimKey = int | tuple[int]


class Tables:
    """Gives everything that is worth sending once an index, and puts its entry into the batch that needs it first.

    Attributes:
        batch: The batch that is being filled.
        entry_bytes: Size of the entries that were appended to it.
    """

    def __init__(self, ranges: Ranges) -> None:
        """Start with empty tables.

        Args:
            ranges: The program's range constraints.
        """
        self.batch = pb.NodeMetadataBatch()
        self.entry_bytes = 0
        self._ranges = ranges
        self._strings: dict[str, int] = {}
        self._expressions: dict[tuple[type, sympy.Basic], int] = {}
        self._raw_expressions: dict[tuple[type, sympy.Basic], int] = {}
        self._dim_keys: dict[sympy.Basic, _DimKey] = {}
        self._tensors: dict[tuple[object, ...], int] = {}
        self._module_stacks: dict[tuple[tuple[str, tuple[str, str | type]], ...], int] = {}
        self._source_fn_stacks: dict[tuple[tuple[int, int], ...], int] = {}
        # By identity; each entry keeps its object, so that no other can get the same identity.
        self._targets: dict[int, tuple[object, int]] = {}

    def take(self) -> pb.NodeMetadataBatch:
        """Give away the batch and begin another."""
        batch, self.batch, self.entry_bytes = self.batch, pb.NodeMetadataBatch(), 0
        return batch

    def string(self, text: str) -> int:
        """Index of a string."""
        index = self._strings.get(text)
        if index is None:
            index = self._strings[text] = len(self._strings) + 1
            text = utf8(text)
            self.batch.strings.append(text)
            self.entry_bytes += len(text)
        return index

    def target(self, target: object) -> int:
        """Return the string index of the name of an operator, function or class."""
        if isinstance(target, str):
            return self.string(target)
        seen = self._targets.get(id(target))
        if seen is None:
            seen = self._targets[id(target)] = target, self.string(target_text(target))
        return seen[1]

    def expression(self, value: Symbolic) -> int:
        """Index of the expression of a symbolic value."""
        key = python_type(value), raw_expression(value)
        index = self._raw_expressions.get(key)
        if index is None:
            index = self._raw_expressions[key] = self._expression(value)
        return index

    def _expression(self, value: Symbolic) -> int:
        type_, expression = key = python_type(value), expression_of(value)
        index = self._expressions.get(key)
        if index is None:
            index = self._expressions[key] = len(self._expressions) + 1
            entry = self.batch.expressions.add(text=str(expression))
            number = hint(expression, type_, backed_values(shape_env_of_value(value)))
            if number is not None:
                if type_ is bool:
                    entry.bool_hint = bool(number)
                elif type_ is float:
                    entry.float_hint = number
                else:
                    entry.int_hint = int(number)
            if type_ is int:
                lower, upper = bounds(expression, self._ranges)
                if lower is not None:
                    entry.lower = lower
                if upper is not None:
                    entry.upper = upper
            self.entry_bytes += entry.ByteSize()
        return index

    def tensor(self, tensor: torch.Tensor) -> int:
        """Index of the description of a tensor."""
        shape = self._dims(tensor.shape)
        layout = tensor.layout
        strides: tuple[_DimKey, ...] = ()
        offset: _DimKey | None = None
        if layout is torch.strided:
            strides = self._dims(tensor.stride())
            offset = self._dim(tensor.storage_offset())
        key = (tensor.dtype, shape, strides, offset, tensor.device, layout, tensor.requires_grad)
        index = self._tensors.get(key)
        if index is None:
            index = self._tensors[key] = len(self._tensors) + 1
            entry = self.batch.tensors.add(
                dtype=str(tensor.dtype).removeprefix("torch."),
                shape=map(_dim_message, shape),
                strides=map(_dim_message, strides),
                storage_offset=None if offset is None else _dim_message(offset),
                device=str(tensor.device),
                layout=str(layout).removeprefix("torch."),
                requires_grad=tensor.requires_grad,
            )
            self.entry_bytes += entry.ByteSize()
        return index

    def _dims(self, dims: Sequence[int | torch.SymInt]) -> tuple[_DimKey, ...]:
        return tuple([dim if type(dim) is int else self._dim(dim) for dim in dims])

    def _dim(self, dim: int | torch.SymInt) -> _DimKey:
        if isinstance(dim, int):
            return dim
        raw = raw_expression(dim)
        key = self._dim_keys.get(raw)
        if key is None:
            expression = expression_of(dim)
            key = int(expression) if isinstance(expression, sympy.Integer) else (self.expression(dim),)
            self._dim_keys[raw] = key
        return key

    def module_stack(self, stack: Mapping[str, tuple[str, str | type]]) -> int:
        """Index of a node's `nn_module_stack`."""
        key = tuple(stack.items())
        index = self._module_stacks.get(key)
        if index is None:
            index = self._module_stacks[key] = len(self._module_stacks) + 1
            frames = [
                pb.ModuleFrame(key=self.string(name), path=self.string(path), type=self.target(type_))
                for name, (path, type_) in key
            ]
            entry = self.batch.module_stacks.add(frames=frames)
            self.entry_bytes += entry.ByteSize()
        return index

    def source_fn_stack(self, stack: Sequence[tuple[str, object]]) -> int:
        """Index of a node's `source_fn_stack`."""
        key = tuple([(self.string(name), self.target(target)) for name, target in stack])
        index = self._source_fn_stacks.get(key)
        if index is None:
            index = self._source_fn_stacks[key] = len(self._source_fn_stacks) + 1
            entry = self.batch.source_fn_stacks.add()
            for name, target in key:
                entry.frames.add(name=name, target=target)
            self.entry_bytes += entry.ByteSize()
        return index


def _dim_message(dim: _DimKey) -> pb.Dim:
    return pb.Dim(size=dim) if isinstance(dim, int) else pb.Dim(expression=dim[0])
