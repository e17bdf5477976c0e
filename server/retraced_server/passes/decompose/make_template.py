"""Traces a call of which nothing is known but its key, as processes share it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from retraced_pt2.program_schema import RangeConstraint
from retraced_pt2.schema import SymExpr, SymExprHint, SymInt
from retraced_server.passes.decompose.attention import table_of
from retraced_server.passes.decompose.call_codec import CallKey, Decoder, UnsharedError
from retraced_server.passes.decompose.shared_templates import encode_template, symbolic_number
from retraced_server.passes.decompose.templates import Templates
from retraced_server.program.fake_tensors import FakeTensors
from retraced_server.program.symbols import Symbols
from retraced_server.retrace.descriptions import Descriptions
from retraced_server.retrace.fake_result_cache import FakeResultCache
from retraced_server.torch_compat.shape_env_transaction import ShapeEnvTransaction

# What sizes are taken to be while a call is traced. What depends on that is not shared, so they have little in common.
_HINTS = (1009, 61)
_encode = msgspec.json.encode
_KEY = msgspec.json.Decoder(CallKey)


def make_template(key: bytes) -> bytes:
    """Trace a call, and return its template, encoded as processes share it; nothing where it depends on more than its key.

    Args:
        key: The key, encoded.

    Raises:
        msgspec.DecodeError: It is none.
        Exception: Whatever torch raises of the call.
    """
    call = _KEY.decode(key)
    try:
        made = [_made(call, hint) for hint in _HINTS[: 2 if call.symbols else 1]]
    except UnsharedError:
        return b""
    return made[0] if made[0] == made[-1] else b""


def _made(key: CallKey, hint: int) -> bytes:
    symbols = Symbols({f"s{place}": bounds for place, (_, bounds) in enumerate(key.symbols)})
    for place, (text, bounds) in enumerate(key.symbols):
        value = _between(hint + 2 * place, bounds)
        symbols.sym_int(msgspec.Raw(_encode(SymInt(as_expr=SymExpr(text, SymExprHint(as_int=value))))))
    tensors = FakeTensors(symbols)
    inputs = [tensors.make(msgspec.Raw(_encode(meta))) for meta in key.inputs]
    target, args, kwargs = Decoder(_number(symbols), inputs.__getitem__, {}).call(key.call)
    transaction = ShapeEnvTransaction(symbols.shape_env)
    before = transaction.mark()
    # As while a pass runs: an operator without tensors makes a fake one too.
    with Templates(table_of(key.table), symbols.mode) as templates, symbols.mode:
        fake_results = FakeResultCache(symbols.mode, transaction, Descriptions(), bypassed=False)
        template, _ = templates.find(target, tuple(args), kwargs, transaction, fake_results)
    # What it has asked of sizes, their ranges alone have answered.
    if transaction.mark() != before:
        raise UnsharedError
    return encode_template(template)


# Expressions have no types, and numbers are of three.
def _number(symbols: Symbols) -> Callable[[str, Any], Any]:
    return lambda kind, expression: symbolic_number(symbols.shape_env, kind, expression)


def _between(wanted: int, bounds: RangeConstraint) -> int:
    """Return a number within bounds."""
    lower = max(bounds.min_val or 0, 0)
    return lower + (wanted if bounds.max_val is None else wanted % (bounds.max_val - lower + 1))
