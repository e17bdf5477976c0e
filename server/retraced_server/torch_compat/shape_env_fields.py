"""What each field of a `ShapeEnv` is (torch/fx/experimental/symbolic_shapes.py): the one table of them. A test knows of others."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final


class Field(Enum):
    """What a field of a shape environment holds, and so what becomes of it when the environment is put back."""

    LEARNABLE = "a dictionary of facts that an operator may add to: symbols, their ranges, equalities between them"
    CONTAINER = "a dictionary, list or set of other facts"
    SCALAR = "a fact or a counter: a number, a truth, or an object that is replaced and not changed"
    ASSERTS = "a dictionary of lists of assertions"
    CACHE = "results that follow from the facts"
    LOG = "settings, and what is recorded for people and for replay"

    @property
    def is_fact(self) -> bool:
        """Whether what torch answers depends on it."""
        return self not in (Field.CACHE, Field.LOG)


FIELDS: Final[Mapping[str, Field]] = {
    "backed_var_to_val": Field.LEARNABLE,
    "var_to_range": Field.LEARNABLE,
    "var_to_range_sloc": Field.LEARNABLE,
    "var_to_sources": Field.LEARNABLE,
    "var_to_stack": Field.LEARNABLE,
    "replacements": Field.LEARNABLE,
    "replacements_slocs": Field.LEARNABLE,
    "unbacked_renamings": Field.LEARNABLE,
    "unbacked_alloc_order": Field.LEARNABLE,
    "axioms": Field.LEARNABLE,
    "guards": Field.CONTAINER,
    "unique_ids": Field.CONTAINER,
    "real_tensor_prop_unbacked_vals": Field.CONTAINER,
    "source_name_to_debug_name": Field.CONTAINER,
    "unbacked_inputs": Field.CONTAINER,
    "var_to_hint_override": Field.CONTAINER,
    "source_to_var": Field.CONTAINER,
    "divisible": Field.CONTAINER,
    "size_like": Field.CONTAINER,
    "val_to_var": Field.CONTAINER,
    "counter": Field.CONTAINER,
    "symbol_guard_counter": Field.CONTAINER,
    "pending_fresh_unbacked_symbols": Field.CONTAINER,
    "ignorable_fresh_unbacked_symbols": Field.CONTAINER,
    "source_to_symbol": Field.CONTAINER,
    "specialization_stacks": Field.CONTAINER,
    "specializations": Field.CONTAINER,
    "exclusion_constraints": Field.CONTAINER,
    "_shape_id_to_unbacked_symbol": Field.CONTAINER,
    "_spec_symbol_to_compile_symbol": Field.CONTAINER,
    "_shape_spec_pending_assumptions": Field.CONTAINER,
    "unbacked_symfloat_counter": Field.SCALAR,
    "unbacked_symint_counter": Field.SCALAR,
    "num_deferred_runtime_asserts": Field.SCALAR,
    "frozen": Field.SCALAR,
    "runtime_asserts_frozen": Field.SCALAR,
    "_version_counter": Field.SCALAR,
    "_prev_cache_key": Field.SCALAR,
    "_replacements_version_counter": Field.SCALAR,
    "_resimplify_floor_div_axioms": Field.SCALAR,
    "_equality_graph": Field.SCALAR,
    "_unbacked_replacements": Field.SCALAR,
    "deferred_runtime_asserts": Field.ASSERTS,
    "fake_tensor_cache": Field.CACHE,
    "fx_node_cache": Field.CACHE,
    "_error_on_new_guards": Field.LOG,
    "_translation_validation_enabled": Field.LOG,
    "check_recorded_events": Field.LOG,
    "co_fields": Field.LOG,
    "dim_constraints": Field.LOG,
    "events": Field.LOG,
    "is_recording": Field.LOG,
    "log": Field.LOG,
    "settings": Field.LOG,
    "should_record_events": Field.LOG,
    "trace_asserts": Field.LOG,
    "tracked_fakes": Field.LOG,
}

CACHED_METHODS: Final = (
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
"""Methods whose results torch caches by `_version_counter`, or for good, since it never takes back a fact."""


def fields(*kinds: Field) -> tuple[str, ...]:
    """Return the names of the fields of some kinds."""
    return tuple(name for name, kind in FIELDS.items() if kind in kinds)
