"""From a graph of the schema to a graph module, subgraphs of higher-order operators included.

The steps and their order are those of `GraphModuleDeserializer` in torch/_export/serde/serialize.py: the order in which values
are made shows in the shape environment, and the order in which nodes are made shows in their names.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

import msgspec
import torch
from msgspec import UNSET
from torch import fx
from torch.export.graph_signature import ExportGraphSignature

from retraced_pt2 import schema
from retraced_pt2.errors import FormatError, shortened
from retraced_pt2.limits import DEEPEST_GRAPH
from retraced_server.analysis.targets import SYM_OPERATORS, Target
from retraced_server.errors import RetracedError
from retraced_server.program.aliases import Aliases
from retraced_server.program.argument_checks import check_arguments, check_operand
from retraced_server.program.errors import cause, format_error, located, program_invalid, program_unsupported
from retraced_server.program.fake_tensors import FakeTensors
from retraced_server.program.names import check_name
from retraced_server.program.node_metadata import MetadataReader
from retraced_server.program.operators import Operators, returns_one_tensor, symbolic_parameters
from retraced_server.program.read_arguments import check_items, custom_object, output_name, read_argument
from retraced_server.program.read_calls import operator_arguments, plain_arguments
from retraced_server.program.symbols import Symbols
from retraced_server.torch_compat.fake_tensors import FakeTensor
from retraced_server.torch_compat.graphs import Argument, LazyGraphModule, graph_module_attributes, name_for_target, rename_node
from retraced_server.torch_compat.operators import HigherOrderOperator, OpOverload
from retraced_server.torch_compat.symbolic_shapes import constrain_size, unbacked_bindings

# torch computes these too from symbolic numbers.
_SYM_TARGETS: frozenset[Target] = SYM_OPERATORS | {torch.ops.aten.item.default}
# For each result of a node, what shares its storage.
Bases: TypeAlias = tuple[FakeTensor | None, ...]

_TAKEN = graph_module_attributes()
_RESULTS = "a list of results of a node"
_LISTS = ("as_tensors", "as_sym_ints", "as_sym_floats")


class ProgramParts:
    """What the graphs of one program share while it is read.

    Args:
        symbols: Its symbols.
        operators: Finds its operators.

    Attributes:
        signature: The signature of its graph.
        tied: Inputs of its graph whose tensors share a storage with that of an earlier input, by name.
    """

    def __init__(self, symbols: Symbols, operators: Operators) -> None:
        self.symbols = symbols
        self.operators = operators
        self.signature = ExportGraphSignature([], [])
        self.tensors = FakeTensors(symbols)
        self.tied: Mapping[str, str] = {}
        self.aliases = Aliases(symbols, self.tensors)
        self.metadata = MetadataReader(operators)
        self.depth = 0

    @contextmanager
    def subgraph(self) -> Iterator[None]:
        """Enter the subgraph of a higher-order operator: its unbacked symbols are bound by its own nodes."""
        outer = self.symbols.fresh
        self.symbols.fresh = set()
        self.depth += 1
        if self.depth > DEEPEST_GRAPH:
            raise program_unsupported(f"subgraphs of higher-order operators are nested deeper than {DEEPEST_GRAPH}")
        try:
            yield
        finally:
            self.symbols.fresh = outer
            self.depth -= 1


class GraphReader:
    """Reads one graph.

    Args:
        described: The graph as the schema has it.
        parts: What it shares with the program's other graphs.
    """

    def __init__(self, described: schema.Graph, parts: ProgramParts) -> None:
        self._described = described
        self._parts = parts
        self.operators = parts.operators
        self._graph = fx.Graph()
        self._root = torch.nn.Module()
        self._nodes: dict[str, fx.Node] = {}
        self._subgraphs: dict[str, schema.Graph] = {}

    def read(self) -> fx.GraphModule:
        """Read the graph into a graph module whose code is made when it is first called.

        Raises:
            RetracedError: PROGRAM_INVALID or PROGRAM_UNSUPPORTED, with the node at fault.
        """
        for position, described in enumerate(self._described.inputs):
            with _locating(f"input {position}"):
                self._placeholder(position, described)
        for node in self._described.nodes:
            with _locating(f"node `{shortened(node.name or node.target, 200)}`"):
                self._call(node)
        with _locating("the outputs"):
            self._output()
            self._bind_unbacked()
        return LazyGraphModule(self._root, self._graph)

    # -- scope of arguments ------------------------------------------------------------------------------------------------------

    def node(self, name: str) -> fx.Node:
        """Return the node whose value has that name."""
        try:
            return self._nodes[name]
        except KeyError:
            raise program_invalid(f"no value `{shortened(name, 200)}` is defined before its use") from None

    def subgraph(self, argument: schema.GraphArgument) -> fx.Node:
        """Read a subgraph of a higher-order operator and return the node that stands for it."""
        known = self._subgraphs.get(argument.name)
        if known is None:
            if check_name(argument.name) in _TAKEN:
                raise program_invalid(
                    f"`{argument.name}` is no name for a subgraph: every graph module has an attribute of that name"
                )
            with self._parts.subgraph():
                module = GraphReader(argument.graph, self._parts).read()
            self._parts.aliases.note_subgraph(module)
            self._root.register_module(argument.name, module)
            self._subgraphs[argument.name] = argument.graph
        elif known != argument.graph:
            raise program_invalid(f"the graph has two different subgraphs `{argument.name}`")
        return self._graph.create_node("get_attr", argument.name, name=argument.name)

    # -- inputs and outputs ------------------------------------------------------------------------------------------------------

    def _placeholder(self, position: int, described: schema.Argument) -> None:
        if described.as_custom_obj is not UNSET:
            raise custom_object(described.as_custom_obj)
        if described.as_tensor is not UNSET or described.as_sym_int is not UNSET:
            name = output_name(described)
            assert name is not None
            # Bodies have inputs of the same names as the graph around them.
            first = self._nodes.get(self._parts.tied.get(name, "")) if self._parts.depth == 0 else None
            self._sync(name, self._graph.placeholder(check_name(name)), None if first is None else first.meta["val"])
            return
        kinds = ("as_int", "as_float", "as_bool", "as_none", "as_string")
        if all(getattr(described, kind) is UNSET for kind in kinds):
            raise program_invalid(f"input {position} of a graph is neither a tensor, a symbolic integer nor a constant")
        specs = self._parts.signature.input_specs
        # As torch does, also in subgraphs: a constant has no name but in the signature.
        name = (specs[position].arg.name if position < len(specs) else "") or f"arg{position}"
        placeholder = self._graph.placeholder(check_name(name))
        placeholder.meta["val"] = read_argument(described, self)

    def _output(self) -> None:
        results = [self._result(described) for described in self._described.outputs]
        if not self._described.is_single_tensor_return:
            output = self._graph.output(tuple(results))
            output.meta["val"] = tuple(node.meta["val"] if isinstance(node, fx.Node) else node for node in results)
            return
        if len(results) != 1 or not isinstance(results[0], fx.Node):
            raise program_invalid(
                "a graph that returns a single tensor returns something else", field="is_single_tensor_return"
            )
        output = self._graph.output(results[0])
        output.meta["val"] = results[0].meta["val"]

    def _result(self, described: schema.Argument) -> Argument:
        name = output_name(described)
        if name is not None:
            return self.node(name)
        for kind in ("as_int", "as_float", "as_bool", "as_none"):
            if getattr(described, kind) is not UNSET:
                return read_argument(described, self)
        raise program_invalid(f"an output of a graph is `{schema.member(described)[0]}`, which no graph returns")

    # -- nodes -------------------------------------------------------------------------------------------------------------------

    def _call(self, described: schema.Node) -> None:
        target = self.operators.find(described.target)
        metadata = self._parts.metadata.read(described.metadata)
        if target in _SYM_TARGETS:
            node = self._symbolic_call(described, target)
        elif isinstance(target, OpOverload):
            node = self._operator_call(described, target, metadata)
        else:
            node = self._other_call(described, target, metadata)
        node.meta.update(metadata)
        self._assume(node)
        if "nn_module_stack" not in node.meta:
            node.meta["nn_module_stack"] = {}

    def _symbolic_call(self, described: schema.Node, target: Target) -> fx.Node:
        if len(described.outputs) != 1 or (name := output_name(described.outputs[0])) is None:
            raise program_invalid("an operator on symbolic numbers has one result")
        if (given := len(described.inputs)) != (taken := len(symbolic_parameters(target))):
            raise program_invalid(f"the operator takes {taken} arguments, not {given}")
        args = tuple(read_argument(named.arg, self) for named in described.inputs)
        node = self._graph.create_node("call_function", target, args, {}, check_name(described.name or name))
        self._sync(name, node)
        return node

    def _operator_call(self, described: schema.Node, target: OpOverload, metadata: Mapping[str, Any]) -> fx.Node:
        name = described.name
        if not name and returns_one_tensor(target) and len(described.outputs) == 1:
            name = output_name(described.outputs[0])
        args, kwargs = operator_arguments(target, described.inputs, self)
        node = self._graph.create_node("call_function", target, args, kwargs, check_name(name) if name else None)
        check_arguments(target, args, kwargs, self._parts.symbols.typical)
        self._results(described, node, metadata)
        return node

    def _other_call(self, described: schema.Node, target: Target, metadata: Mapping[str, Any]) -> fx.Node:
        args, kwargs = plain_arguments(described.inputs, self)
        name = described.name
        if isinstance(target, HigherOrderOperator):
            check_operand(args, kwargs, self._parts.symbols.typical)
            for argument in (*args, *kwargs.values()):
                if isinstance(argument, fx.Node) and argument.op == "get_attr":
                    # Bodies have no metadata of their own in the file.
                    argument.meta.update(metadata)
            if not name and len(described.outputs) == 1 and described.is_hop_single_tensor_return is not False:
                only = described.outputs[0]
                name = only.as_tensor.name if only.as_tensor is not UNSET else None
        node = self._graph.create_node("call_function", target, args, kwargs, check_name(name) if name else None)
        self._results(described, node, metadata)
        return node

    def _assume(self, node: fx.Node) -> None:
        """Take what asserting operators say of symbols for true, as torch does."""
        symbols = self._parts.symbols
        if node.target is torch.ops.aten._assert_scalar.default:
            condition = node.args[0]
            value = condition.meta["val"] if isinstance(condition, fx.Node) else condition
            if isinstance(value, torch.SymBool):
                symbols.shape_env.guard_or_defer_runtime_assert(value.node.expr, "", node)
        elif node.target is torch.ops.aten.sym_constrain_range_for_size.default:
            size = node.args[0]
            value = size.meta["val"] if isinstance(size, fx.Node) else size
            if isinstance(value, torch.SymInt):
                constrain_size(symbols.shape_env, value)

    # -- results -----------------------------------------------------------------------------------------------------------------

    def _results(self, described: schema.Node, node: fx.Node, metadata: Mapping[str, Any]) -> None:
        outputs = described.outputs
        if not outputs:
            return
        bases = self._parts.aliases.bases(node, self._root)
        if len(outputs) == 1:
            only = outputs[0]
            name = output_name(only)
            if name is not None:
                in_tuple = described.is_hop_single_tensor_return is False and isinstance(node.target, HigherOrderOperator)
                if in_tuple:
                    values: list[Any] = []
                    self._getitem(values, node, name, 0, metadata, bases)
                    node.meta["val"] = tuple(values)
                    self._nodes[node.name] = node
                else:
                    self._sync(name, node, _at(bases, 0))
                return
            if only.as_none is not UNSET:
                node.meta["val"] = None
                rename_node(node, f"{name_for_target(self._graph, node.target)}_unused")
                return
            if only.as_tensors is UNSET or not only.as_tensors:
                raise program_invalid("the result of a node is neither a value, nothing, nor a list of tensors")
            outputs = [schema.Argument(as_tensor=tensor) for tensor in only.as_tensors]
        values = []
        self._getitems(values, node, check_items(outputs, _RESULTS), metadata, bases)
        node.meta["val"] = tuple(values)
        self._nodes[node.name] = node

    def _getitems(
        self, values: list[Any], node: fx.Node, outputs: list[schema.Argument], metadata: Mapping[str, Any], bases: Bases
    ) -> None:
        for position, output in enumerate(outputs):
            name = output_name(output)
            if name is not None and output.as_sym_bool is UNSET:
                self._getitem(values, node, name, position, metadata, bases)
            elif output.as_none is not UNSET:
                item = self._graph.create_node("call_function", operator.getitem, (node, position), name="as_none")
                values.append(None)
                item.meta["val"] = None
                item.meta.update(_copied(metadata))
            else:
                self._getitem_list(values, node, output, position, metadata, (_at(bases, position),))

    def _getitem_list(
        self,
        values: list[Any],
        node: fx.Node,
        output: schema.Argument,
        position: int,
        metadata: Mapping[str, Any],
        bases: Bases,
    ) -> None:
        kind, members = schema.member(output)
        if kind not in _LISTS:
            raise program_invalid(f"result {position} of a node is `{kind}`, which torch does not read")
        items = self._graph.create_node("call_function", operator.getitem, (node, position))
        inner: list[Any] = []
        for at, part in enumerate(check_items(members, _RESULTS)):
            name = output_name(part)
            assert name is not None
            self._getitem(inner, items, name, at, metadata, bases)
        values.append(inner)
        items.meta.update(_copied(metadata))
        items.meta["val"] = inner

    def _getitem(
        self, values: list[Any], node: fx.Node, name: str, position: int, metadata: Mapping[str, Any], bases: Bases
    ) -> None:
        item = self._graph.create_node("call_function", operator.getitem, (node, position), name=check_name(name))
        self._sync(name, item, _at(bases, position))
        values.append(item.meta["val"])
        item.meta.update(_copied(metadata))

    def _sync(self, name: str, node: fx.Node, base: FakeTensor | None = None) -> None:
        """Give a node its name, which fx may have changed, and its value; `base` has the storage of a tensor, if it has no own."""
        if name in self._nodes:
            raise program_invalid(f"two values are named `{name}`")
        # Even to the same, fx takes a node out of its tables and puts it back.
        if node.name != check_name(name):
            node.name = name
        self._nodes[name] = node
        node.meta["val"] = self._value(name, base)

    def _value(self, name: str, base: FakeTensor | None) -> Any:
        described, symbols = self._described, self._parts.symbols
        try:
            if (raw := described.tensor_values.get(name)) is not None:
                return self._parts.tensors.make(raw, base)
            if (raw := described.sym_int_values.get(name)) is not None:
                return symbols.sym_int(raw)
            if (raw := described.sym_float_values.get(name)) is not None:
                return symbols.sym_float(raw)
            if (raw := described.sym_bool_values.get(name)) is not None:
                return symbols.sym_bool(raw)
        except msgspec.MsgspecError as error:
            raise program_invalid(f"the description of the value `{name}` cannot be read: {error}") from error
        raise program_invalid(f"the value `{name}` has no description")

    def _bind_unbacked(self) -> None:
        """Return which node makes which unbacked symbol."""
        fresh = self._parts.symbols.fresh
        for node in self._graph.nodes:
            if not fresh:
                return
            if (value := node.meta.get("val")) is not None and (
                bindings := unbacked_bindings(value, self._parts.symbols.shape_env, fresh)
            ):
                node.meta["unbacked_bindings"] = bindings
        if fresh:
            raise program_invalid(f"no node makes the symbols {', '.join(sorted(map(str, fresh)))}")


@contextmanager
def _locating(where: str) -> Iterator[None]:
    """Say in errors where in the graph they arose; what fx, sympy and torch raise becomes one of ours, which does not say invalid."""
    try:
        yield
    except RetracedError as error:
        raise located(error, where) from error
    except FormatError as error:
        raise located(format_error(error), where) from error
    except (ValueError, TypeError, AssertionError, RuntimeError, AttributeError, LookupError, ArithmeticError) as error:
        raise program_unsupported(f"{where}: this cannot be read here: {cause(error)}") from error


def _at(bases: Bases, position: int) -> FakeTensor | None:
    """Return the base of a result; the last one stands for all further ones."""
    return bases[min(position, len(bases) - 1)] if bases else None


def _copied(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata of one node for another one: what can be changed in place is copied."""
    return {key: value.copy() if isinstance(value, (dict, list)) else value for key, value in metadata.items()}
