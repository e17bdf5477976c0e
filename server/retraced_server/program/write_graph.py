"""From a graph module to a graph of the schema, subgraphs of higher-order operators included.

The cases and their order are those of `GraphModuleSerializer` in torch/_export/serde/serialize.py.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from retraced_server.analysis.targets import SYM_OPERATORS
from retraced_server.errors import RetracedError
from retraced_server.program.errors import cause, located, program_unsupported
from retraced_server.program.operators import operator_name, schema_types, symbolic_parameters
from retraced_server.program.write_arguments import write_argument
from retraced_server.program.write_metadata import write_metadata
from retraced_server.program.write_outputs import OutputWriter
from retraced_server.program.write_values import Json, ValueWriter
from retraced_server.torch_compat.operators import HigherOrderOperator, OpOverload

_POSITIONAL = 1
_KEYWORD = 2
_SYMBOLIC = (torch.SymInt, torch.SymBool, torch.SymFloat)


class GraphWriter:
    """Writes one graph.

    Args:
        module: The graph module.
        values: Writes the values of the program.
        duplicates: Names of `getitem` nodes that repeat another one, with the other's; shared by a program's graphs.
    """

    def __init__(self, module: fx.GraphModule, values: ValueWriter, duplicates: dict[str, str]) -> None:
        self._module = module
        self._values = values
        self._duplicates = duplicates
        self._inputs: list[Json] = []
        self._outputs: list[Json] = []
        self._nodes: list[Json] = []
        self._single_tensor = False
        self.tensor_values: dict[str, Json] = {}
        self.sym_int_values: dict[str, Json] = {}
        self.sym_float_values: dict[str, Json] = {}
        self.sym_bool_values: dict[str, Json] = {}
        self._results = OutputWriter(self, values, duplicates)

    def write(self) -> Json:
        """Return the graph of the schema.

        Raises:
            RetracedError: PROGRAM_UNSUPPORTED where something in it has no serialized form, with the node.
        """
        for node in self._module.graph.nodes:
            try:
                if node.op == "call_function":
                    self._call(node)
                elif node.op == "placeholder":
                    self._placeholder(node)
                elif node.op == "output":
                    self._output(node)
                elif node.op != "get_attr":
                    raise program_unsupported(f"a node of kind {node.op} has no serialized form")
            except RetracedError as error:
                raise located(error, f"node `{node.name}`") from error
            # What comes of metadata that is missing or of another shape, and of tensors without strides.
            except (AttributeError, LookupError, TypeError, ValueError, AssertionError, RuntimeError) as error:
                raise program_unsupported(f"node `{node.name}` has no serialized form: {cause(error)}") from error
        return {
            "inputs": self._inputs,
            "outputs": self._outputs,
            "nodes": self._nodes,
            "tensor_values": self.tensor_values,
            "sym_int_values": self.sym_int_values,
            "sym_bool_values": self.sym_bool_values,
            "is_single_tensor_return": self._single_tensor,
            "custom_obj_values": {},
            "sym_float_values": self.sym_float_values,
        }

    # -- scope of arguments ------------------------------------------------------------------------------------------------------

    def same_value(self, name: str) -> str:
        """Return the name under which a value is written."""
        return self._duplicates.get(name, name)

    def subgraph(self, node: fx.Node) -> Json:
        """Return the argument for a node that stands for a subgraph of a higher-order operator."""
        name = node.target
        subgraph = getattr(self._module, name, None) if isinstance(name, str) else None
        if not isinstance(subgraph, fx.GraphModule):
            raise program_unsupported(f"the attribute `{name}` is {type(subgraph).__name__}, which has no serialized form")
        return {"as_graph": {"name": name, "graph": GraphWriter(subgraph, self._values, self._duplicates).write()}}

    # -- nodes -------------------------------------------------------------------------------------------------------------------

    def _placeholder(self, node: fx.Node) -> None:
        value = node.meta["val"]
        if isinstance(value, (torch.Tensor, torch.SymInt)):
            self._inputs.append(self._results.value(node.name, value))
        elif isinstance(value, (int, bool, str, float, type(None))):
            self._inputs.append(write_argument(value, self))
        else:
            raise program_unsupported(f"an input of type {type(value).__name__} has no serialized form")

    def _output(self, node: fx.Node) -> None:
        (results,) = node.args
        if isinstance(results, fx.Node):
            self._single_tensor = True
            self._outputs = [write_argument(results, self)]
        elif isinstance(results, (tuple, list)):
            self._outputs = [write_argument(result, self) for result in results]
        else:
            raise program_unsupported(f"a graph that returns {type(results).__name__} has no serialized form")

    def _call(self, node: fx.Node) -> None:
        target: Any = node.target
        # Results of an operator stand in the node that made them.
        if target is operator.getitem:
            return
        single_tensor: bool | None = None
        value = node.meta.get("val")
        if target in SYM_OPERATORS or isinstance(value, _SYMBOLIC):
            if target not in SYM_OPERATORS and not isinstance(target, OpOverload):
                raise program_unsupported(f"a call of {target} with a symbolic result has no serialized form")
            if node.kwargs:
                raise program_unsupported("an operator on symbolic numbers with keyword arguments has no serialized form")
            inputs = [
                {"name": name, "arg": write_argument(argument, self), "kind": _POSITIONAL}
                for name, argument in zip(symbolic_parameters(target), node.args, strict=False)
            ]
            outputs = [self._results.value(node.name, value)]
        elif isinstance(target, OpOverload):
            inputs = self._operator_inputs(target, node)
            outputs = self._results.of_operator(target, node)
        elif callable(target):
            inputs = [{"name": "", "arg": write_argument(argument, self), "kind": _POSITIONAL} for argument in node.args]
            inputs += [
                {"name": name, "arg": write_argument(argument, self), "kind": _KEYWORD}
                for name, argument in node.kwargs.items()
            ]
            outputs = self._results.of_function(node)
            if isinstance(target, HigherOrderOperator):
                single_tensor = isinstance(value, torch.Tensor)
        else:
            raise program_unsupported(f"a call of {target} has no serialized form")
        self._nodes.append(
            {
                "target": operator_name(target),
                "inputs": inputs,
                "outputs": outputs,
                "metadata": write_metadata(node.meta),
                "is_hop_single_tensor_return": single_tensor,
                "name": node.name,
            }
        )

    def _operator_inputs(self, target: OpOverload, node: fx.Node) -> list[Json]:
        inputs = []
        args, kwargs = node.args, node.kwargs
        for position, (name, kind, kwarg_only) in enumerate(schema_types(target)):
            if name in kwargs:
                inputs.append({"name": name, "arg": write_argument(kwargs[name], self, kind), "kind": _KEYWORD})
            elif not kwarg_only and position < len(args):
                inputs.append({"name": name, "arg": write_argument(args[position], self, kind), "kind": _POSITIONAL})
        return inputs
