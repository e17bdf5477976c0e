"""From the value of a node to the results that the schema names, one for each `getitem` node."""

from __future__ import annotations

import functools
import operator
from typing import Any, Protocol

import torch
from torch import fx

from retraced_server.program.errors import program_invalid, program_unsupported
from retraced_server.program.write_values import Json, ValueWriter
from retraced_server.torch_compat.operators import OpOverload, schema_of


class ValueTables(Protocol):
    """The values of a graph that is being written, by name."""

    tensor_values: dict[str, Json]
    sym_int_values: dict[str, Json]
    sym_float_values: dict[str, Json]
    sym_bool_values: dict[str, Json]


class OutputWriter:
    """Writes the results of one graph's nodes into its tables.

    Args:
        tables: The tables.
        values: Writes the values.
        duplicates: Gets the names of `getitem` nodes that repeat another one, with the other's.
    """

    def __init__(self, tables: ValueTables, values: ValueWriter, duplicates: dict[str, str]) -> None:
        self._tables = tables
        self._values = values
        self._duplicates = duplicates
        self._taken: tuple[fx.Node | None, dict[Any, fx.Node]] = (None, {})

    def value(self, name: str, value: Any) -> Json:
        """Return the result for one value. `Any`: what is not a tensor, a number or nothing is an error.

        Raises:
            RetracedError: PROGRAM_UNSUPPORTED where it has no serialized form, PROGRAM_INVALID where another value has its name.
        """
        if value is None:
            return {"as_none": True}
        if isinstance(value, torch.Tensor):
            return {"as_tensor": self._tensor(name, value)}
        if isinstance(value, (bool, torch.SymBool)):
            return {"as_sym_bool": _named(name, self._tables.sym_bool_values, self._values.sym_bool(value))}
        if isinstance(value, (int, torch.SymInt)):
            return {"as_sym_int": _named(name, self._tables.sym_int_values, self._values.sym_int(value))}
        if isinstance(value, (float, torch.SymFloat)):
            return {"as_sym_float": _named(name, self._tables.sym_float_values, self._values.sym_float(value))}
        raise program_unsupported(f"a result of type {type(value).__name__} has no serialized form")

    def of_operator(self, target: OpOverload, node: fx.Node) -> list[Json]:
        """Return the results of an operator that has a schema."""
        count, is_tensor_list = _returns(target)
        if count == 0:
            return []
        value = node.meta["val"]
        if is_tensor_list:
            names = self._item_names(node, len(value))
            return [{"as_tensors": [self._tensor(name, item) for name, item in zip(names, value, strict=True)]}]
        if count == 1:
            return [self.value(node.name, value)]
        results = []
        for position, item in enumerate(value[:count]):
            if isinstance(item, list):
                results.append(self._list_result(node, position, [member for member in item if member is not None]))
            elif item is None:
                results.append({"as_none": True})
            else:
                results.append(self.value(self._item_name(node, position), item))
        return results

    def of_function(self, node: fx.Node) -> list[Json]:
        """Return the results of a higher-order operator or a function, which have no schema."""
        value = node.meta["val"]
        if isinstance(value, tuple):
            return [
                self._list_result(node, position, item)
                if isinstance(item, list)
                else self.value(self._item_name(node, position), item)
                for position, item in enumerate(value)
            ]
        if isinstance(value, dict):
            return [{"as_tensors": [self._tensor(self._item_name(node, key), item) for key, item in value.items()]}]
        return [self.value(node.name, value)]

    def _list_result(self, node: fx.Node, position: int, items: list[Any]) -> Json:
        user = self._user_at(node, position)
        names = (
            [f"{node.name}_unused_{position}_{index}" for index in range(len(items))]
            if user is None
            else self._item_names(user, len(items))
        )
        return {"as_tensors": [self._tensor(name, item) for name, item in zip(names, items, strict=True)]}

    def _tensor(self, name: str, value: Any) -> Json:
        if not isinstance(value, torch.Tensor):
            raise program_unsupported(f"a list that holds {type(value).__name__} has no serialized form")
        if name in self._tables.tensor_values:
            raise program_invalid(f"two values are named `{name}`")
        self._tables.tensor_values[name] = self._values.tensor(value)
        return {"name": name}

    def _item_names(self, node: fx.Node, count: int) -> list[str]:
        return [self._item_name(node, position) for position in range(count)]

    def _item_name(self, node: fx.Node, position: Any) -> str:
        user = self._user_at(node, position)
        return f"{node.name}_unused_{position}" if user is None else user.name

    def _user_at(self, node: fx.Node, position: Any) -> fx.Node | None:
        if self._taken[0] is not node:
            self._taken = (node, self._users(node))
        return self._taken[1].get(position)

    def _users(self, node: fx.Node) -> dict[Any, fx.Node]:
        """Return the `getitem` nodes that take the results of a node, by position; of several for one, the first."""
        users: dict[Any, fx.Node] = {}
        for user in node.users:
            if user.target is not operator.getitem:
                raise program_unsupported(
                    f"`{user.name}` takes all results of `{node.name}` at once, which has no serialized form"
                )
            first = users.setdefault(user.args[1], user)
            if first is not user:
                self._duplicates[user.name] = first.name
        return users


def _named(name: str, table: dict[str, Json], value: Json) -> Json:
    if name in table:
        raise program_invalid(f"two values are named `{name}`")
    table[name] = value
    return {"as_name": name}


@functools.cache
def _returns(target: OpOverload) -> tuple[int, bool]:
    """How many results an operator has, and whether the only one is a list of tensors."""
    returns = schema_of(target).returns
    kind = returns[0].real_type if len(returns) == 1 else None
    return len(returns), isinstance(kind, torch.ListType) and isinstance(kind.getElementType(), torch.TensorType)
