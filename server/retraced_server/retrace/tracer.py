"""Builds the new graph of a retrace: nodes, names, attributes, recorded values."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import fx

from retraced_server.retrace.arguments import Argument
from retraced_server.retrace.descriptions import Descriptions, UnknownError
from retraced_server.retrace.errors import ExportPassError
from retraced_server.retrace.hooks import MakesNodes
from retraced_server.retrace.overrides import overrides, refuse_overrides
from retraced_server.retrace.proxy_value import ProxyValue
from retraced_server.retrace.symbolic_numbers import SymbolicNumbers
from retraced_server.retrace.values import SYMBOLIC, same_metadata
from retraced_server.torch_compat.fake_tensors import (
    FakeTensor,
    FakeTensorMode,
    TensorMetadata,
    UnsupportedFakeTensorException,
    extract_tensor_metadata,
)
from retraced_server.torch_compat.graphs import INHERITED_META, CodeGen, fresh_name, node_source, taken_names
from retraced_server.torch_compat.operators import is_lowered_module
from retraced_server.torch_compat.pytree import pytree

_NUMBERS = (torch.SymInt, torch.SymFloat, torch.SymBool, int, float, bool, str)


# What torch's class calls of a tracer and this one does not, with what to override in its place.
_NOT_CALLED = {"get_fresh_qualname": "create_arg"}
_MAKES_NODES = ("create_node", "create_proxy", "create_arg", "proxy", "set_metadata")


class ExportTracer(fx.Tracer):
    """Makes the nodes of one graph, each by `create_proxy`, `create_arg`, `create_node` and `set_metadata`. It never traces by itself.

    Args:
        callback: The pass; its `on_attr` hears of new attributes.
        codegen: How the graph's code is generated.

    Attributes:
        visited: The old node that nodes are made for, whose stack trace and the like they take, to be read only; None for none.
        before_use: Called before anything is asked of the graph or its module for the first time; None for nothing.
        makes_copies: Whether nodes that stay as they were have to be made by it too, since a subclass makes nodes in a way of its own.
    """

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        refuse_overrides(cls, ExportTracer, _NOT_CALLED)

    def __init__(self, callback: MakesNodes, codegen: CodeGen) -> None:
        # It traces no functions, so that none has to be known by its name.
        super().__init__(autowrap_modules=())  # type: ignore[arg-type]  # torch gives it the type of its default
        self.before_use: Callable[[], None] | None = None
        self.callback = callback
        self.root = torch.nn.Module()
        self.graph = fx.Graph()
        self.graph.set_codegen(codegen)
        self.fake_tensor_mode: FakeTensorMode | None = None
        self.visited: fx.Node | None = None
        self.makes_copies = overrides(type(self), ExportTracer, _MAKES_NODES)
        self._attributes: torch.nn.Module | None = None
        # The numbers to begin with when a name for an attribute is looked for, by prefix.
        self._attributes_made: dict[str, int] = {}
        # Modules and tensors by identity; the old graph's are put here when its get_attr nodes are visited.
        self._submodules: dict[torch.nn.Module, fx.Node] = {}
        self._attribute_nodes: dict[int, tuple[Any, fx.Node]] = {}
        self._numbers = SymbolicNumbers(callback, self.graph)
        self._descriptions = Descriptions()
        self._described: dict[Hashable, TensorMetadata] = {}

    @property
    def graph(self) -> fx.Graph:
        """The graph that is built."""
        self._use()
        return self._graph

    @graph.setter
    def graph(self, graph: fx.Graph) -> None:
        self._graph = graph

    @property
    def root(self) -> torch.nn.Module:
        """The module that holds the graph's attributes."""
        self._use()
        return self._root

    @root.setter
    def root(self, root: torch.nn.Module) -> None:
        self._root = root

    @property
    def submodules(self) -> dict[torch.nn.Module, fx.Node]:
        """The modules that the graph reads, with the nodes that do."""
        self._use()
        return self._submodules

    @property
    def attribute_nodes(self) -> dict[int, tuple[Any, fx.Node]]:
        """The tensors that the graph reads, by their ids, with the nodes that do."""
        self._use()
        return self._attribute_nodes

    def _use(self) -> None:
        if self.before_use is not None:
            self.before_use()

    def rebuild(self, module: fx.GraphModule, fake_tensor_mode: FakeTensorMode, descriptions: Descriptions) -> None:
        """Get ready to build the graph of a module anew; its attributes' names are kept for these attributes.

        Args:
            module: The module.
            fake_tensor_mode: The program's fake mode.
            descriptions: What values say to operators.
        """
        self._attributes, self.fake_tensor_mode, self._descriptions = module, fake_tensor_mode, descriptions

    def trace(self, *args: Any, **kwargs: Any) -> fx.Graph:
        """Refuse: nodes are made by `create_proxy` and `create_node`."""
        raise ExportPassError("ExportTracer doesn't support trace().")

    @property
    def taken_names(self) -> set[str]:
        """Names that nodes have, or that are reserved for them."""
        return taken_names(self.graph)

    def fresh_name(self, name: str) -> str:
        """Find a node name like the given one that no node has, and take it."""
        return fresh_name(self.graph, name)

    def fresh_attribute(self, prefix: str) -> str:
        """Find an attribute name that neither the old module nor the new one has."""
        number = self._attributes_made.get(prefix, 0)
        while hasattr(self.root, f"{prefix}{number}") or (
            self._attributes is not None and hasattr(self._attributes, f"{prefix}{number}")
        ):
            number += 1
        self._attributes_made[prefix] = number + 1
        return f"{prefix}{number}"

    # Targets and arguments are fx's own open types.
    def create_node(
        self, kind: str, target: Any, args: Any, kwargs: Any, name: str | None = None, type_expr: Any = None
    ) -> fx.Node:
        """Make a node, with the metadata that says where it comes from of the node that is visited."""
        node = self.graph.create_node(kind, target, args, kwargs, name, type_expr)
        if self.visited is not None:
            recorded = self.visited.meta
            node.meta.update({key: recorded[key] for key in INHERITED_META if key in recorded})
        return node

    # The argument and the result are fx's own open types.
    def create_arg(self, a: Argument) -> Any:
        """Turn a value into what a node can hold, containers by their items, adding attributes for modules and tensors.

        Raises:
            ExportPassError: The value is a fake tensor without a node that computes it, or a symbolic number that no node can compute.
        """
        self._use()
        kind = type(a)
        if a is None or kind is int or kind is str or kind is bool or kind is float:
            return a
        if kind is tuple:
            return tuple([self.create_arg(item) for item in a])
        if kind is list:
            return [self.create_arg(item) for item in a]
        if kind is dict:
            return {key: self.create_arg(item) for key, item in a.items()}
        if isinstance(a, (ProxyValue, fx.Proxy)):
            return a.node
        if isinstance(a, fx.Node):
            return a
        if isinstance(a, torch.nn.Module):
            return self._module(a)
        if isinstance(a, FakeTensor):
            if a.constant is None:
                raise ExportPassError(
                    f"a fake tensor of shape {tuple(a.shape)} was given as an argument, but no node computes it: give the ProxyValue "
                    "instead of its data, make the value with call_operator, or make a constant with torch.tensor or before the pass runs "
                    "(within hooks, functions such as torch.zeros make fake tensors)"
                )
            return self._tensor(a.constant)
        if isinstance(a, torch.Tensor):
            return self._tensor(a)
        if isinstance(a, SYMBOLIC):
            return a.node.constant if a.node.constant is not None else self.create_arg(self._numbers.value_of(a))
        return super().create_arg(a)

    # A symbolic number is of any of three types that share no base.
    def computed(self, number: Any) -> Any:
        """Return the value of a node that computes a symbolic number: one that does already, else new ones, from the sizes of tensors.

        Raises:
            ExportPassError: A symbol of it is neither a size of a tensor in the graph nor computed there, or a function has no operator.
        """
        self._use()
        return self._numbers.value_of(number)

    def _module(self, module: torch.nn.Module) -> fx.Node:
        if module not in self.submodules:
            name = self.fresh_attribute("lowered_module_" if is_lowered_module(module) else "submodule_")
            self.root.add_module(name, module)
            self.submodules[module] = self.create_node("get_attr", name, (), {})
        return self.submodules[module]

    def _tensor(self, tensor: torch.Tensor) -> fx.Node:
        known = self.attribute_nodes.get(id(tensor))
        if known is not None:
            return known[1]
        name = self.fresh_attribute("_param_constant" if isinstance(tensor, torch.nn.Parameter) else "_tensor_constant")
        if isinstance(tensor, torch.nn.Parameter):
            self.root.register_parameter(name, tensor)
        else:
            self.root.register_buffer(name, tensor)
        node = self.create_node("get_attr", name, (), {})
        if self.visited is not None:
            node.meta["from_node"] = [node_source(self.visited, type(self.callback).__name__)]
        self.attribute_nodes[id(tensor)] = (tensor, node)
        self.set_metadata(node, tensor)
        self.callback.on_attr(ProxyValue(tensor, node))
        return node

    def set_metadata(self, node: fx.Node, value: Argument) -> None:
        """Record a value: `val`, and `tensor_meta`, which describes tensors that cannot be faked and is None for others.

        Where the node that is visited has a description, the new one is described too.
        """
        like = self.visited
        described = node.meta.get("tensor_meta") is not None
        if like is not None and described and "tensor_meta" in like.meta and same_metadata(value, like.meta.get("val")):
            node.meta["val"], node.meta["tensor_meta"] = value, like.meta["tensor_meta"]
            return
        unfakeable: list[torch.Tensor] = []

        def recorded(leaf: Any) -> Any:
            if isinstance(leaf, FakeTensor):
                return leaf
            if isinstance(leaf, torch.Tensor):
                try:
                    return self._fake(leaf)
                except UnsupportedFakeTensorException:
                    unfakeable.append(leaf)
                    return None
            return leaf if isinstance(leaf, _NUMBERS) else None

        node.meta["val"] = val = pytree.tree_map(recorded, value)
        if unfakeable:
            node.meta["tensor_meta"] = pytree.tree_map(
                lambda leaf: extract_tensor_metadata(leaf) if any(leaf is one for one in unfakeable) else None, value
            )
        elif isinstance(val, FakeTensor) and described:
            node.meta["tensor_meta"] = self._description(val)
        else:
            node.meta["tensor_meta"] = None if isinstance(val, FakeTensor) else pytree.tree_map(lambda _: None, val)

    def _description(self, tensor: FakeTensor) -> TensorMetadata:
        """Return torch's description of a tensor. Torch looks for its memory format each time; tensors with the same sizes have the same."""
        try:
            key = self._descriptions.describe(tensor)
        except UnknownError:
            key = None
        found = None if key is None else self._described.get(key)
        if found is None:
            with tensor.fake_mode.shape_env.suppress_guards() if tensor.fake_mode.shape_env else torch.no_grad():
                found = extract_tensor_metadata(tensor)
            if key is not None:
                self._described[key] = found
        return found

    def _fake(self, tensor: torch.Tensor) -> FakeTensor:
        if self.fake_tensor_mode is None:
            raise ExportPassError("the tracer has no fake tensor mode")
        if tensor.is_quantized:
            # A fake tensor has no quantizer; what operators see of the value is its dequantized form.
            tensor = torch.dequantize(tensor)
        # Attributes have the sizes that they have: a symbol for one would be a symbol of nothing.
        return self.fake_tensor_mode.from_tensor(tensor, static_shapes=True)
