"""Traces a call of which nothing is known but its key, as processes share it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from retraced_pt2.program_schema import RangeConstraint
from retraced_pt2.schema import SymExpr, SymExprHint, SymInt
from retraced_server.passes.decompose.attention import table_of
from retraced_server.passes.decompose.call_codec import CallKey, Decoder, NumberType, UnsharedError
from retraced_server.passes.decompose.shared_templates import encode_template
from retraced_server.passes.decompose.templates import Templates
from retraced_server.program.fake_tensors import FakeTensors
from retraced_server.program.symbols import Symbols
from retraced_server.retrace.descriptions import Descriptions
from retraced_server.retrace.fake_result_cache import FakeResultCache
from retraced_server.torch_compat.shape_env_transaction import ShapeEnvTransaction
from retraced_server.torch_compat.symbolic_shapes import symbolic_number

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
        made = [_made(call, attempt) for attempt in range(2 if call.symbols else 1)]
    except UnsharedError:
        return b""
    return made[0] if made[0] == made[-1] else b""


def _made(key: CallKey, attempt: int) -> bytes:
    symbols = Symbols({f"s{place}": bounds for place, (_, bounds) in enumerate(key.symbols)})
    for place, (text, bounds) in enumerate(key.symbols):
        value = _hints(place, bounds)[attempt]
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
def _number(symbols: Symbols) -> Callable[[NumberType, Any], Any]:
    return lambda kind, expression: symbolic_number(symbols.shape_env, kind, expression)


def _hints(place: int, bounds: RangeConstraint) -> tuple[int, int]:
    """Return what a size is taken to be while a call is traced, and while it is traced again.

    What depends on that is not shared: the two differ wherever the bounds allow it, and of two sizes with the same bounds the other is larger.
    """
    lower = max(bounds.min_val or 0, 0)
    if bounds.max_val is None:
        return lower + 1009 + 2 * place, lower + 571 - 2 * place
    last = bounds.max_val - lower
    first = (1009 + 2 * place) % (last + 1)
    second = last - first
    return lower + first, lower + (second if second != first else max(second - 1, 0))
