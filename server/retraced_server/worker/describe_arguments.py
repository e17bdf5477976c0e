"""Arguments and recorded values of nodes, as messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.fx import Node

from retraced.v1 import node_metadata_pb2 as pb
from retraced_server.torch_compat.functorch import is_functorch_wrapped_tensor
from retraced_server.torch_compat.operators import HigherOrderOperator, OpOverload, OpOverloadPacket
from retraced_server.worker.describe_symbols import INT64_MAX, INT64_MIN
from retraced_server.worker.describe_tables import Tables
from retraced_server.worker.describe_text import constant_text, object_text


def write_argument(value: Any, out: pb.Argument, tables: Tables) -> None:  # Any: what fx allows as an argument.
    """Write an argument of a node, at any depth.

    Args:
        value: A node or a constant.
        out: An empty message.
        tables: Where its strings go.
    """
    if isinstance(value, Node):
        out.node = tables.string(value.name)
    elif value is None:
        out.none.SetInParent()
    elif isinstance(value, bool):
        out.bool_value = value
    elif isinstance(value, int) and INT64_MIN <= value <= INT64_MAX:
        out.int_value = value
    elif isinstance(value, float):
        out.float_value = value
    elif isinstance(value, str):
        out.string_value = tables.string(value)
    elif isinstance(value, list):
        out.list.SetInParent()
        for item in value:
            write_argument(item, out.list.items.add(), tables)
    elif isinstance(value, tuple):
        out.tuple.SetInParent()
        for item in value:
            write_argument(item, out.tuple.items.add(), tables)
    elif isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        out.map.SetInParent()
        for key, item in value.items():
            entry = out.map.items.add(name=tables.string(key))
            write_argument(item, entry.value, tables)
    elif isinstance(value, torch.dtype):
        out.dtype = tables.string(str(value).removeprefix("torch."))
    elif isinstance(value, torch.device):
        out.device = tables.string(str(value))
    elif isinstance(value, torch.layout):
        out.layout = tables.string(str(value).removeprefix("torch."))
    elif isinstance(value, torch.memory_format):
        out.memory_format = tables.string(str(value).removeprefix("torch."))
    elif isinstance(value, OpOverload | OpOverloadPacket | HigherOrderOperator):
        out.operator = tables.target(value)
    else:
        out.opaque = tables.string(constant_text(value))


def write_value(value: Any, out: pb.Value, tables: Tables) -> None:  # Any: what export records as a node's value.
    """Write a node's recorded value, at any depth. Adds no guard and specialises nothing.

    Args:
        value: A fake tensor, a symbolic or plain number, None, a sequence of such, or an object.
        out: An empty message.
        tables: Where its descriptions go.
    """
    # Flex attention records tensors of a vmap that is over; they can no longer be asked for anything.
    if isinstance(value, torch.Tensor) and not is_functorch_wrapped_tensor(value):
        out.tensor = tables.tensor(value)
    elif value is None:
        out.none.SetInParent()
    elif isinstance(value, torch.SymInt):
        out.sym_int = tables.expression(value)
    elif isinstance(value, torch.SymFloat):
        out.sym_float = tables.expression(value)
    elif isinstance(value, torch.SymBool):
        out.sym_bool = tables.expression(value)
    elif isinstance(value, list | tuple):
        out.list.SetInParent()
        for item in value:
            write_value(item, out.list.items.add(), tables)
    elif isinstance(value, bool):
        out.bool_value = value
    elif isinstance(value, int) and INT64_MIN <= value <= INT64_MAX:
        out.int_value = value
    elif isinstance(value, float):
        out.float_value = value
    elif isinstance(value, str):
        out.string_value = tables.string(value)
    elif isinstance(value, int | complex | torch.dtype | torch.device | torch.layout | torch.memory_format):
        out.opaque = tables.string(constant_text(value))
    else:
        out.opaque = tables.string(object_text(value))
