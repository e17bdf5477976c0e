"""Mutates archives by expressions that are short and a lot of work: products, powers, quotients and extremes of sums, in one another."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from typing import Final

from fuzz.mutate import MODELS, Mutant
from fuzz.mutate_model import slots_of
from fuzz.zips import build, parse

MOST_SECONDS: Final = 20.0
"""Processor time that one archive may take: a few times what the reader's bounds leave to one expression. Servers bound it for all."""

_SYMBOLS: Final = tuple(f"Symbol('s{number}', positive=True, integer=True)" for number in range(24))
_RANGE: Final = {"min_val": 2, "max_val": 64}
_COUNTS: Final = (2, 3, 5, 10, 24, 60, 300)
_EXPONENTS: Final = (2, 3, 5, 10, 60, 500, -2, -40)
_QUOTIENTS: Final = ("FloorDiv", "Mod", "PythonMod", "CleanDiv", "CeilDiv", "IntTrueDiv")
_COMPARISONS: Final = ("StrictLessThan", "LessThan", "GreaterThan", "Equality", "Unequality")
_LONGEST: Final = 64 << 10


def with_expressions(archives: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the archives, by name, whose programs have symbolic sizes."""
    return {name: archive for name, archive in archives.items() if b"expr_str" in archive}


def mutate_expressions(archive: bytes, seed: int) -> Mutant:
    """Put one expression that may be a lot of work in place of others: of one, of a few, or of all."""
    chance = random.Random(seed)
    made = parse(archive)
    entry = None if made is None else made.find(MODELS)
    assert made is not None
    assert entry is not None, "it is the archive of a program"
    model = json.loads(entry.data)
    slots = [slot for slot in slots_of(model) if slot[1] == "expr_str"]
    depth = chance.choice((1, 2, 2, 3, 3, 4))
    count = chance.choice((1, 1, 3, len(slots)))
    text = work(chance, depth)
    for holder, key in chance.sample(slots, min(count, len(slots))):
        holder[key] = text
    model["range_constraints"] |= {f"s{number}": _RANGE for number in range(len(_SYMBOLS))}
    entry.data = json.dumps(model).encode()
    return Mutant(build(made), (f"an expression of depth {depth} in {count} places",))


def work(chance: random.Random, depth: int) -> str:
    """Return an expression that nests so deep, of at most 64 KiB: a sum where it would be longer."""
    text = _work(chance, depth)
    return text if len(text) <= _LONGEST else _sum(chance, 2)


def _work(chance: random.Random, depth: int) -> str:
    count = chance.choice(_COUNTS)
    if depth == 0:
        return chance.choice((_sum(chance, count), chance.choice(_SYMBOLS)))
    inner = _work(chance, depth - 1)
    other = _work(chance, chance.randrange(depth))
    match chance.randrange(8):
        case 0 | 1:
            return f"{chance.choice(('Pow', 'Pow', 'PowByNatural'))}({inner}, Integer({chance.choice(_EXPONENTS)}))"
        case 2:
            return f"Mul({', '.join(_sum(chance, chance.choice((2, 2, 5))) for _ in range(count))}, {inner})"
        case 3:
            return f"Mul({inner}, {other})"
        case 4:
            return f"{chance.choice(_QUOTIENTS)}({inner}, {other})"
        case 5:
            return f"{chance.choice(('Max', 'Min'))}({inner}, {', '.join(_sum(chance, 3) for _ in range(count))})"
        case 6:
            return f"Add({inner}, Mul(Integer(-1), {other}), Pow({inner}, Integer(2)))"
        case _:
            bounds = ", ".join(
                f"{chance.choice(_COMPARISONS)}({_sum(chance, 2)}, {_sum(chance, 2)})" for _ in range(min(count, 24))
            )
            condition = f"{chance.choice(('And', 'Or'))}({bounds})"
            return f"Piecewise(ExprCondPair({inner}, {condition}), ExprCondPair({other}, true))"


def _sum(chance: random.Random, count: int) -> str:
    terms = (
        f"Mul(Integer({chance.randint(1, 9)}), {symbol})" if chance.random() < 0.3 else symbol
        for symbol in chance.choices(_SYMBOLS, k=count)
    )
    return f"Add({', '.join(terms)}, Integer({chance.randint(1, 9)}))"
