"""View operators become operators that copy."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from retraced_server.analysis.targets import overload_of
from retraced_server.passes.ir_level import require_level
from retraced_server.passes.registry import register_pass
from retraced_server.pipeline.catalogue import IrLevel
from retraced_server.retrace import Argument, ExportPass, ExportPassError, NodeMetadata, ProxyValue, pass_context
from retraced_server.torch_compat.operators import OpOverload, base_name, overload_name, schema_of


@register_pass("view-to-view-copy", ir_level=IrLevel.FUNCTIONAL)
class ViewToViewCopy(ExportPass):
    """Replace view operators by those that copy, such as `aten.permute` by `aten.permute_copy`, for backends that plan memory.

    No value then shares storage with another, so that a value's memory can be planned by its users alone. What it does is what torch's
    ReplaceViewOpsWithViewCopyOpsPass does (torch/_export/passes/replace_view_ops_with_view_copy_ops_pass.py). The program must be
    functional, since a write to a view would no longer be seen in what it is a view of: `decompose` makes it so.
    """

    def requires(self, graph_module: fx.GraphModule) -> None:
        """Raise a PassError where the program writes to values."""
        require_level(graph_module, IrLevel.FUNCTIONAL, type(self).__name__)

    # The operator is of any of torch's types for them.
    def call_operator(
        self, op: Any, args: tuple[Argument, ...], kwargs: dict[str, Argument], meta: NodeMetadata
    ) -> ProxyValue[Any]:
        """Call the copying form of a view operator in its place."""
        copying = _copying_form(op)
        if copying is None:
            return super().call_operator(op, args, kwargs, meta)
        pass_context().count_rewrites()
        return super().call_operator(copying, args, kwargs, meta)


def _copying_form(target: Any) -> OpOverload | None:
    op = overload_of(target)
    if op is None or op.namespace != "aten" or not schema_of(op).arguments:
        return None
    copying: OpOverload | None
    if op is torch.ops.aten._unsafe_view.default:
        copying = torch.ops.aten.view_copy.default
    else:
        alias = schema_of(op).arguments[0].alias_info
        if alias is None or alias.is_write:
            return None
        copying = getattr(getattr(torch.ops.aten, f"{base_name(op)}_copy", None), overload_name(op), None)
    if copying is None:
        raise ExportPassError(f"{op} may return a view, and has no form that always copies; run `decompose` before")
    if op is not target:
        # Which operator of its dialect copies, only the dialect knows.
        raise ExportPassError(
            f"{op} is called as an operator of a dialect, and may return a view; run this pass before the dialect's"
        )
    return copying
