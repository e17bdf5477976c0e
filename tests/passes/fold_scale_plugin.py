"""A pass as somebody else would ship it, with public names only: `retraced serve --import tests.passes.fold_scale_plugin`."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from retraced_server.passes import IrLevel, WeightsNeed, register_pass
from retraced_server.retrace import ExportPass, NodeMetadata, PassResult, ProxyValue, pass_context, value_of

aten = torch.ops.aten


@register_pass("fold-scale", needs_weights=WeightsNeed.VALUES, ir_level=IrLevel.FUNCTIONAL)
class FoldScale(ExportPass, only={aten.mul.Tensor, aten.mul.Scalar}):
    """Fold the multiplication of a linear's result by a constant number into the linear's weight and bias.

    A weight is changed for the linear alone whose result is multiplied: others that use it keep the old one.
    """

    def call(self, graph_module: fx.GraphModule) -> PassResult:
        """Visit the nodes of a graph module, and leave out weights that only folded linears used."""
        # A weight that several linears share is scaled by the same number once.
        self.scaled: dict[tuple[str, float], torch.Tensor] = {}
        return super().call(graph_module)

    def call_operator(self, op: Any, args: Any, kwargs: Any, meta: NodeMetadata) -> ProxyValue[Any]:
        """Call a linear with scaled weights in the place of a multiplication."""
        for at, linear in enumerate(args):
            if isinstance(linear, ProxyValue) and linear.node.target is aten.linear.default:
                folded = self._fold(linear.node, at, args[1 - at], meta)
                if folded is not None:
                    return folded
        return super().call_operator(op, args, kwargs, meta)

    def _fold(self, linear: fx.Node, at: int, factor: Any, meta: NodeMetadata) -> ProxyValue[Any] | None:
        context = pass_context()
        assert context.node is not None
        # Of the graph under construction not all users are there yet.
        given = context.node.args[at]
        assert isinstance(given, fx.Node)
        number, why = _number(factor)
        weights = [argument for argument in linear.args[1:] if argument is not None]
        names = [context.weights.name_of(weight) for weight in weights]
        if number is None:
            pass
        elif len(given.users) > 1:
            why = "other nodes use its result too"
        elif None in names or any(context.weights.is_written(name) for name in names if name is not None):
            why = "its weight or bias is computed by the program"
        elif value_of(linear).dtype != meta.data["val"].dtype or not value_of(linear).is_floating_point():
            why = "the result has another dtype"
        if why:
            context.remark(f"{linear.name} is not multiplied by its factor beforehand: {why}")
            return None
        assert number is not None
        scaled = [self._scaled(name, number) for name in names if name is not None]
        context.count_rewrites()
        x = linear.args[0]
        assert isinstance(x, fx.Node)
        return super().call_operator(aten.linear.default, (ProxyValue(value_of(x), x), *scaled), {}, meta)

    def _scaled(self, name: str, factor: float) -> torch.Tensor:
        if (name, factor) not in self.scaled:
            weights = pass_context().weights
            with weights.eager():
                value = torch.nn.Parameter(weights[name] * factor, requires_grad=False)
            self.scaled[name, factor] = weights.add(f"{name}_scaled", value)
            weights.discard(name)
        return self.scaled[name, factor]


def _number(factor: Any) -> tuple[float | None, str]:
    """Return the number that a factor is in every run, or why it is none."""
    if isinstance(factor, (int, float)):
        return float(factor), ""
    weights = pass_context().weights
    # A constant that the model makes in `forward` is copied first.
    while isinstance(factor, ProxyValue) and factor.node.target is aten.clone.default:
        source = factor.node.args[0]
        assert isinstance(source, fx.Node)
        factor = ProxyValue(value_of(source), source)
    name = weights.name_of(factor)
    if name is None:
        return None, "the factor is computed by the program"
    if weights.is_written(name):
        return None, f"the program changes the factor `{name}`"
    if value_of(factor).numel() != 1 or value_of(factor).dim():
        return None, f"the factor `{name}` is no single number"
    with weights.eager():
        return float(weights[name]), ""
