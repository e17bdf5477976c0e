"""Mutations of texts in a model that have a grammar of their own: symbolic expressions, tree specs, and JSON itself."""

from __future__ import annotations

import json
import random
import re
from typing import Any, Final

from fuzz.hostile import ATOMS, INTEGERS, MODULE, STRINGS

_ONE: Final = (
    *(
        "Not",
        "Abs",
        "floor",
        "ceiling",
        "CeilToInt",
        "FloorToInt",
        "TruncToFloat",
        "TruncToInt",
        "RoundToInt",
        "ToFloat",
        "Identity",
    ),
    *("OpaqueUnaryFn_exp", "OpaqueUnaryFn_log", "OpaqueUnaryFn_sqrt", "OpaqueUnaryFn_tan", "OpaqueUnaryFn_cosh", "Derivative"),
)
_TWO: Final = (
    *(
        "Pow",
        "FloorDiv",
        "PythonMod",
        "Mod",
        "CleanDiv",
        "CeilDiv",
        "LShift",
        "RShift",
        "PowByNatural",
        "FloatPow",
        "FloatTrueDiv",
    ),
    *("IntTrueDiv", "RoundDecimal", "Equality", "Unequality", "StrictLessThan", "LessThan", "GreaterThan", "ExprCondPair"),
    *("BitwiseFn_bitwise_and", "BitwiseFn_bitwise_or", "BitwiseFn_bitwise_xor", "IsNonOverlappingAndDenseIndicator"),
)
_THREE: Final = ("ITE", "ModularIndexing", "Where")
_MANY: Final = ("Add", "Mul", "And", "Or", "Piecewise", "Max", "Min", "Add", "Mul")
_SYMBOL: Final = re.compile(r"Symbol\('\w+'[^)]*\)")
_NUMBER: Final = re.compile(r"-?\d+")
_NAME: Final = re.compile(r"[A-Za-z_]\w*")
_KINDS: Final = (
    *(
        "builtins.tuple",
        "builtins.list",
        "builtins.dict",
        "collections.OrderedDict",
        "collections.deque",
        "collections.defaultdict",
    ),
    *(
        "torch.Size",
        "collections.namedtuple",
        "torch.fx.immutable_collections.immutable_list",
        f"{MODULE}.Node",
        "builtins.object",
    ),
    *("transformers.modeling_outputs.BaseModelOutput", "dataclass", "enum.Enum", ""),
)


def mutate_expression(text: str, chance: random.Random) -> str:
    """Return an expression grown, deepened, of huge numbers or powers, with parts swapped, or another altogether."""
    symbols = _SYMBOL.findall(text) or ["Symbol('s0', integer=True, positive=True)"]
    match chance.randrange(9):
        case 0:
            return _expression(symbols, chance, chance.randint(1, 5))
        case 1:
            depth = chance.choice((1, 3, 30, 63, 64, 65, 200, 2_000))
            function = chance.choice((*_ONE, "Add", "Max"))
            return f"{function}(" * depth + text + ")" * depth
        case 2:
            count = chance.choice((2, 10, 100, 1_000))
            parts = [_expression(symbols, chance, chance.randrange(3)) for _ in range(min(count, 40))]
            return f"{chance.choice(_MANY)}({', '.join(parts * (count // len(parts) or 1))})"
        case 3:
            return f"{chance.choice(('Pow', 'PowByNatural', 'FloatPow', 'LShift'))}({text}, {_number(chance)})"
        case 4:
            return _NUMBER.sub(lambda _: str(chance.choice(INTEGERS)), text, chance.randint(1, 3))
        case 5:
            return _SYMBOL.sub(lambda _: _symbol(symbols, chance), text)
        case 6:
            names = [*_ONE, *_TWO, *_THREE, *_MANY]
            at = list(_NAME.finditer(text))
            found = chance.choice(at) if at else None
            return text if found is None else text[: found.start()] + chance.choice(names) + text[found.end() :]
        case 7:
            return chance.choice(STRINGS)
        case _:
            return mutate_string(text, chance)


def mutate_string(text: str, chance: random.Random) -> str:
    """Return a text with a part cut, doubled, replaced or of another case."""
    start = chance.randrange(len(text) + 1)
    end = min(len(text), start + chance.randrange(8))
    return chance.choice(
        (
            *(text[:start] + text[end:], text[:end] + text[start:], text[:start] + chance.choice(STRINGS) + text[end:]),
            *(text.swapcase(), text * 2, text[::-1], text + "_1", text + "\n", text[:start], text * chance.choice((10, 400))),
        )
    )


def mutate_tree_spec(text: str, chance: random.Random) -> str:
    """Return a tree spec with other containers, deeper, wider, with contexts of another, or no tree spec at all."""
    try:
        protocol, root = json.loads(text)
        nodes = list(_tree_nodes(root))
    # It was mutated before.
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return chance.choice(STRINGS)
    node = chance.choice(nodes)
    leaf: dict[str, Any] = {"type": None, "context": None, "children_spec": []}
    match chance.randrange(8):
        case 0:
            node["type"] = chance.choice(_KINDS)
        case 1:
            node["context"] = chance.choice((*ATOMS, "null", "[]", '["a", "a"]', "5", '{"default_factory_module": "os"}'))
        case 2:
            node["children_spec"] = chance.choice(
                ([], [leaf], node["children_spec"] * 2, [node["children_spec"]], [leaf] * 300)
            )
        case 3:
            depth = chance.choice((3, 60, 64, 65, 300))
            inner: Any = leaf
            for _ in range(depth):
                inner = {"type": "builtins.tuple", "context": "null", "children_spec": [inner]}
            node |= inner
        case 4:
            module = chance.choice(("builtins", "os", MODULE, "collections"))
            context = {
                "default_factory_module": module,
                "default_factory_name": chance.choice(("list", "system", "dict", "eval")),
            }
            node |= {"type": "collections.defaultdict", "context": context | {"dict_context": ["a"]}, "children_spec": [leaf]}
        case 5:
            protocol = chance.choice((*INTEGERS, None, "1"))
        case 6:
            node[chance.choice(("type", "context", "children_spec", "x"))] = chance.choice(ATOMS)
        case _:
            return mutate_string(text, chance)
    return json.dumps([protocol, root])


def mutate_json(text: str, chance: random.Random) -> bytes:
    """JSON that a lenient parser would take and a strict one not, or that another parser would read otherwise."""
    data = text.encode(errors="surrogatepass")
    at = chance.randrange(len(data) + 1)
    deep = chance.choice((10, 500, 1_500, 50_000))
    match chance.randrange(10):
        case 0:
            return data.replace(b'"name"', b'"name": "other", "name"', 1)
        case 1:
            return data.replace(b'"graph_module"', b'"graph_module": {}, "graph_module"', 1)
        case 2:
            value = chance.choice(
                (b"1e999", b"-0", b"1.0", b"1e2", b"NaN", b"01", b"0x10", b"9" * 5_000, b"1" + b"0" * 300, b"[" * deep)
            )
            numbers = list(re.finditer(rb"(?<=: )-?\d+", data))
            found = chance.choice(numbers) if numbers else None
            return data if found is None else data[: found.start()] + value + data[found.end() :]
        case 3:
            return chance.choice((b"\xef\xbb\xbf", b"\xff\xfe", b"\0", b"// x\n", b" " * 100_000)) + data
        case 4:
            return data + chance.choice((b"\0", b"}", b"{}", b" " * 100_000, data))
        case 5:
            return (
                data[:at]
                + chance.choice((b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\0", b"\\", b'"', b"\\ud800", b","))
                + data[at:]
            )
        case 6:
            return data.replace(b"null", b"[" * deep + b"]" * deep, 1)
        case 7:
            return data.replace(b"null", b'{"a":' * deep + b"0" + b"}" * deep, 1)
        case 8:
            return data[:at]
        case _:
            return data.replace(b'"', b"'", chance.choice((1, 2, -1)))


def _tree_nodes(node: Any) -> Any:
    yield node
    for child in node["children_spec"]:
        yield from _tree_nodes(child)


def _expression(symbols: list[str], chance: random.Random, depth: int) -> str:
    if depth == 0:
        return _symbol(symbols, chance) if chance.random() < 0.5 else _number(chance)
    kind = chance.randrange(4)
    function, count = (
        (chance.choice(_ONE), 1),
        (chance.choice(_TWO), 2),
        (chance.choice(_THREE), 3),
        (chance.choice(_MANY), chance.randint(1, 5)),
    )[kind]
    parts = [_expression(symbols, chance, chance.randrange(depth)) for _ in range(count)]
    if function == "Piecewise":
        parts = [
            f"ExprCondPair({part}, {chance.choice(('true', 'false', f'StrictLessThan({part}, Integer(3))'))})" for part in parts
        ]
    return f"{function}({', '.join(parts)})"


def _symbol(symbols: list[str], chance: random.Random) -> str:
    name = chance.choice(
        ("s0", "s77", "u0", "u1", "u999999", "u1000000", "s999999999", "zuf0", "zf1", "ps0", "x", "s-1", "s0_1")
    )
    assumption = chance.choice(
        ("", ", integer=True", ", integer=True, positive=True", ", positive=False", ", even=True, odd=True", ", x=1")
    )
    return chance.choice((chance.choice(symbols), f"Symbol('{name}'{assumption})"))


def _number(chance: random.Random) -> str:
    value = chance.choice(INTEGERS)
    return chance.choice(
        (
            *(
                f"Integer({value})",
                f"Integer({chance.randint(-9, 9)})",
                f"Rational({value}, {chance.choice((0, 1, 2, 3, -7))})",
            ),
            *(
                f"Float('{chance.choice(('0.5', '1e308', '1e-308', '1e400', 'nan', 'inf'))}', precision={chance.choice((53, 1, 1000))})",
            ),
            *("true", "false", "oo", "zoo", "nan", "int_oo", "pi", "I"),
        )
    )
