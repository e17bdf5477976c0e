"""Text that is taken for an expression and evaluated."""

from __future__ import annotations

from typing import Any

from retraced_server.errors import Reason

from .route import Effect, Route, edited, graph, touch


def _size(text: str) -> bytes:
    def edit(model: Any) -> None:
        meta = next(meta for meta in graph(model)["tensor_values"].values() if meta["sizes"])
        meta["sizes"][0] = {"as_expr": {"expr_str": text, "hint": None}}

    return edited(edit)


def _value(kind: str, text: str) -> bytes:
    def edit(model: Any) -> None:
        named = "as_sym_int" if kind == "sym_int_values" else "as_sym_float" if kind == "sym_float_values" else "as_sym_bool"
        graph(model)[kind]["made"] = {"as_expr": {"expr_str": text, "hint": None}}
        node: dict[str, Any] = {
            "target": "torch.sym_not" if named == "as_sym_bool" else "math.trunc",
            "metadata": {},
            "name": "made",
        }
        node |= {"inputs": [{"name": "a", "arg": {"as_int": 1}, "kind": 1}], "outputs": [{named: {"as_name": "made"}}]}
        graph(model)["nodes"].append({**node, "is_hop_single_tensor_return": None})
        # torch looks at the values of results only.
        graph(model)["outputs"].append({named: {"as_name": "made"}})

    return edited(edit)


_NESTED = "Integer(2)"
for _ in range(50_000):
    _NESTED = f"Add({_NESTED})"

_FUNCTION = r"is no function of shape expressions|is not of its grammar"
ROUTES = (
    Route("expression-of-a-size", lambda folder: _size(touch(folder)), _FUNCTION),
    Route("expression-of-an-argument", lambda folder: _size(f"Add(Integer(1), {touch(folder)})"), _FUNCTION),
    *(
        Route(f"expression-in-{kind}", lambda folder, kind=kind: _value(kind, touch(folder)), _FUNCTION)  # type: ignore[misc]
        for kind in ("sym_int_values", "sym_float_values", "sym_bool_values")
    ),
    Route(
        "expression-of-attributes",
        lambda folder: _size(f"Integer.__class__.__base__.__subclasses__().__len__() + len([{touch(folder)}])"),
        r"`\.` is not of its grammar|cannot be read",
    ),
    Route(
        "huge-power",
        lambda _: _size("Pow(Integer(10), Integer(10000000000))"),
        r"a power in it",
        Reason.PROGRAM_UNSUPPORTED,
        effect=Effect.LIMIT,
    ),
    Route(
        "tower-of-powers",
        lambda _: _size("Pow(Pow(Pow(Integer(10), Integer(99)), Integer(99)), Integer(99999999))"),
        r"a power in it|too large",
        Reason.PROGRAM_UNSUPPORTED,
        effect=Effect.LIMIT,
    ),
    Route(
        "deep-expression",
        lambda _: _size(_NESTED),
        r"has \d+ characters",
        Reason.PROGRAM_UNSUPPORTED,
        effect=Effect.NONE,
        stock=r"RecursionError|MemoryError|SyntaxError|SympifyError",
    ),
)
