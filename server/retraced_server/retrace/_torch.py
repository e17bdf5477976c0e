"""The private parts of torch that the engine needs, in one place. Checked with torch 2.13.0."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import fx
from torch._C import _check_schema_allow_fake_script_object as check_schema
from torch._C import _DisableTorchDispatch as DisableTorchDispatch
from torch._C import _is_any_autocast_enabled as is_any_autocast_enabled
from torch._C import _jit_resolve_packet as jit_resolve_packet
from torch._C import _should_allow_numbers_as_tensors as takes_numbers_as_tensors
from torch._C._functorch import get_dynamic_layer_stack_depth as functorch_depth
from torch._C._functorch import get_unwrapped, is_functorch_wrapped_tensor
from torch._C._functorch import pop_dynamic_layer_stack_and_undo_to_depth as leave_functorch_levels
from torch._dispatch.python import enable_python_dispatcher
from torch._export.verifier import SpecViolationError, Verifier
from torch._export.verifier import _verify_exported_program_module_call_graph as verify_module_call_graph
from torch._export.verifier import _verify_exported_program_signature as verify_signature
from torch._functorch import predispatch
from torch._guards import detect_fake_mode
from torch._higher_order_ops.executorch_call_delegate import executorch_call_delegate, is_lowered_module
from torch._library.utils import is_builtin
from torch._ops import HigherOrderOperator, OpOverload, OpOverloadPacket
from torch._subclasses.fake_tensor import (
    FakeTensor,
    FakeTensorMode,
    UnsupportedFakeTensorException,
    disable_fake_tensor_cache,
    in_kernel_invocation_manager,
)
from torch.export import ExportedProgram
from torch.export.exported_program import _common_getitem_elimination_pass as drop_equal_getitems
from torch.fx._lazy_graph_module import _LazyGraphModule as LazyGraphModule
from torch.fx.experimental.symbolic_shapes import ShapeEnv, canonicalize_bool_expr, compute_unbacked_bindings
from torch.fx.passes.infra.pass_base import PassBase, PassResult
from torch.fx.passes.shape_prop import TensorMetadata, _extract_tensor_metadata
from torch.fx.proxy import _COPY_META_FIELDS
from torch.fx.traceback import NodeSource, NodeSourceAction
from torch.utils import _pytree as pytree
from torch.utils._sympy import functions as sympy_functions
from torch.utils._sympy.numbers import int_oo
from torch.utils._sympy.value_ranges import ValueRanges

__all__ = [
    "INHERITED_META",
    "FakeTensor",
    "FakeTensorMode",
    "HigherOrderOperator",
    "LazyGraphModule",
    "OpOverload",
    "OpOverloadPacket",
    "PassBase",
    "PassResult",
    "ShapeEnv",
    "SpecViolationError",
    "TensorMetadata",
    "UnsupportedFakeTensorException",
    "ValueRanges",
    "Verifier",
    "alias_of",
    "canonicalize_bool_expr",
    "check_schema",
    "compute_unbacked_bindings",
    "detect_fake_mode",
    "disable_fake_tensor_cache",
    "drop_equal_getitems",
    "enable_python_dispatcher",
    "executorch_call_delegate",
    "extract_tensor_metadata",
    "functorch_depth",
    "int_oo",
    "is_any_autocast_enabled",
    "is_builtin",
    "is_functorch_wrapped_tensor",
    "is_lowered_module",
    "jit_resolve_packet",
    "keep_version",
    "leave_functorch_levels",
    "node_source",
    "predispatch",
    "pytree",
    "set_graph_module",
    "sympy_functions",
    "takes_numbers_as_tensors",
    "unwrapped",
    "verify_module_call_graph",
    "verify_signature",
    "view_of",
]

extract_tensor_metadata = _extract_tensor_metadata


def alias_of(tensor: FakeTensor) -> FakeTensor:
    """Makes a fake tensor with the storage, sizes and strides of another: `detach` without the dispatch, which takes ten times as long."""
    with DisableTorchDispatch():
        meta = tensor.detach()
    return FakeTensor(tensor.fake_mode, meta, tensor.fake_device)


def view_of(tensor: FakeTensor, size: tuple[Any, ...], stride: tuple[Any, ...], offset: Any) -> FakeTensor:
    """Makes a fake tensor with the storage of another, and given sizes (int or SymInt), without a guard."""
    mode = tensor.fake_mode
    with in_kernel_invocation_manager(mode), mode.shape_env.suppress_guards() if mode.shape_env else nullcontext():
        meta = torch.ops.aten.as_strided.default(tensor, size, stride, offset)
    return FakeTensor(mode, meta, tensor.fake_device)


def unwrapped(tensor: torch.Tensor) -> torch.Tensor:
    """Return what is in a tensor that functorch has wrapped, however often; any other as it is."""
    while is_functorch_wrapped_tensor(tensor):
        tensor = get_unwrapped(tensor)
    return tensor


def keep_version(tensor: torch.Tensor, version: int) -> None:
    """Sets the version that counts writes to a tensor and its aliases."""
    torch._C._autograd._unsafe_set_version_counter((tensor,), (version,))


def set_graph_module(program: ExportedProgram, module: fx.GraphModule) -> None:
    """Set a program's graph module, for which torch has no public way."""
    program._graph_module = module


def node_source(node: fx.Node, pass_name: str) -> NodeSource:
    """Makes torch's own record of the node that another was made for."""
    return NodeSource(node, pass_name, NodeSourceAction.CREATE)


# Metadata that a node has of the node in whose place it is made.
INHERITED_META = ("stack_trace", *_COPY_META_FIELDS)

# What a ShapeEnv knows, by the names of its attributes; the rest is logs and settings.
SHAPE_ENV_CONTAINERS = (
    "guards",
    "axioms",
    "unique_ids",
    "backed_var_to_val",
    "real_tensor_prop_unbacked_vals",
    "var_to_range",
    "var_to_range_sloc",
    "source_name_to_debug_name",
    "var_to_sources",
    "unbacked_inputs",
    "var_to_stack",
    "var_to_hint_override",
    "source_to_var",
    "replacements",
    "replacements_slocs",
    "unbacked_renamings",
    "divisible",
    "size_like",
    "val_to_var",
    "counter",
    "symbol_guard_counter",
    "pending_fresh_unbacked_symbols",
    "ignorable_fresh_unbacked_symbols",
    "source_to_symbol",
    "unbacked_alloc_order",
    "specialization_stacks",
    "specializations",
    "_shape_id_to_unbacked_symbol",
)
SHAPE_ENV_SCALARS = (
    "unbacked_symfloat_counter",
    "unbacked_symint_counter",
    "num_deferred_runtime_asserts",
    "frozen",
    "runtime_asserts_frozen",
    "_version_counter",
    "_prev_cache_key",
    "_replacements_version_counter",
    "_resimplify_floor_div_axioms",
    "_equality_graph",
    "_unbacked_replacements",
)
# Methods of ShapeEnv whose results torch caches: by `_version_counter`, and those of the second part for good, since torch never takes
# back a fact.
SHAPE_ENV_CACHES = (
    "get_axioms",
    "_maybe_evaluate_static",
    "replace",
    "_update_divisible",
    "simplify",
    "_find",
    "_simplify_floor_div",
    "size_hint",
    "guarding_hint_or_throw",
    "has_guarding_hint",
    "_maybe_guard_rel",
    "_inner_evaluate_expr",
    "guard_or_defer_runtime_assert",
    "constrain_symbol_range",
)
