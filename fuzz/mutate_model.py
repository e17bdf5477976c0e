"""Mutations of a model record and of payload configs, as parsed JSON: of any value, and of what the schema gives a meaning."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any, Final

from fuzz.hostile import ATOMS, INTEGERS, STRINGS, TARGETS
from fuzz.mutate_text import mutate_expression, mutate_string, mutate_tree_spec

Json = Any
"""What JSON is made of, in any depth."""

Slot = tuple[Any, Any]
"""A dictionary and a key of it, or a list and an index."""

JsonMutation = Callable[[Json, list[Slot], random.Random], None]

_TREE_SPECS: Final = ("in_spec", "out_spec")
_METADATA: Final = ("stack_trace", "nn_module_stack", "torch_fn", "from_node", "source_fn_stack", "custom", "val", "x")
_ARGUMENTS: Final = (
    *(
        "as_none",
        "as_tensor",
        "as_tensors",
        "as_int",
        "as_ints",
        "as_float",
        "as_floats",
        "as_string",
        "as_strings",
        "as_sym_int",
    ),
    *(
        "as_sym_ints",
        "as_scalar_type",
        "as_memory_format",
        "as_layout",
        "as_device",
        "as_bool",
        "as_bools",
        "as_sym_bool",
        "as_sym_bools",
    ),
    *("as_graph", "as_optional_tensors", "as_custom_obj", "as_operator", "as_sym_float", "as_sym_floats", "as_optional_tensor"),
    *("as_complex", "as_int_lists", "as_string_to_argument", "as_nested_tensors", "as_x"),
)


def slots_of(parsed: Json) -> list[Slot]:
    """Every place in parsed JSON that holds a value, from the outside in."""
    slots: list[Slot] = []
    waiting = [parsed]
    while waiting:
        value = waiting.pop()
        keys: Any = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
        for key in keys:
            slots.append((value, key))
            waiting.append(value[key])
    return slots


def replace(_: Json, slots: list[Slot], chance: random.Random) -> None:
    """Any value becomes one of another type."""
    holder, key = chance.choice(slots)
    value = holder[key]
    holder[key] = copy.deepcopy(chance.choice((*ATOMS, [value], {"as_int": value}, str(value)[:1_000], {str(key): value})))


def number(_: Json, slots: list[Slot], chance: random.Random) -> None:
    """A number becomes huge, negative, or close to what it was."""
    if found := [slot for slot in slots if type(slot[0][slot[1]]) is int]:
        holder, key = chance.choice(found)
        holder[key] = chance.choice(
            (*INTEGERS, holder[key] + 1, holder[key] - 1, -holder[key], float(min(holder[key], 1 << 60)))
        )


def string(_: Json, slots: list[Slot], chance: random.Random) -> None:
    """A text becomes a hostile one, or one close to what it was."""
    if found := [slot for slot in slots if type(slot[0][slot[1]]) is str]:
        holder, key = chance.choice(found)
        holder[key] = chance.choice(STRINGS) if chance.random() < 0.6 else mutate_string(holder[key][:2_000], chance)


def remove(_: Json, slots: list[Slot], chance: random.Random) -> None:
    """A field or an item is missing."""
    holder, key = chance.choice(slots)
    del holder[key]


def repeat(_: Json, slots: list[Slot], chance: random.Random) -> None:
    """An item is there several times."""
    if found := [slot for slot in slots if isinstance(slot[0], list)]:
        holder, key = chance.choice(found)
        holder[key:key] = [copy.deepcopy(holder[key]) for _ in range(chance.choice((1, 1, 2, 70)))]


def swap(_: Json, slots: list[Slot], chance: random.Random) -> None:
    """Two values of the same field change places."""
    holder, key = chance.choice(slots)
    other, same = chance.choice([slot for slot in slots if slot[1] == key])
    holder[key], other[same] = copy.deepcopy(other[same]), copy.deepcopy(holder[key])


def transplant(_: Json, slots: list[Slot], chance: random.Random) -> None:
    """A value from elsewhere stands in a place."""
    holder, key = chance.choice(slots)
    other, there = chance.choice(slots)
    holder[key] = copy.deepcopy(other[there])


def add_field(_: Json, slots: list[Slot], chance: random.Random) -> None:
    """An object has a field more, known elsewhere or nowhere."""
    if found := [slot for slot in slots if isinstance(slot[0], dict)]:
        holder, _key = chance.choice(found)
        names = [slot[1] for slot in found]
        holder[chance.choice((chance.choice(names), chance.choice(STRINGS)))] = copy.deepcopy(chance.choice(ATOMS))


def rename(_parsed: Json, slots: list[Slot], chance: random.Random) -> None:
    """A name has another text wherever it stands, a hostile one or that of something else."""
    names = [holder[key] for holder, key in slots if key in ("name", "as_name") and type(holder[key]) is str]
    if names:
        old, new = chance.choice(names), chance.choice((chance.choice(names), chance.choice(STRINGS)))
        for holder, key in slots:
            if holder.get(key) == old if isinstance(holder, dict) else holder[key] == old:
                holder[key] = new
            if isinstance(holder, dict) and key == old and key in holder:
                holder[new] = holder.pop(key)


def expression(_: Json, slots: list[Slot], chance: random.Random) -> None:
    """A symbolic expression becomes another; or a number becomes one."""
    found = [slot for slot in slots if slot[1] == "expr_str" and type(slot[0][slot[1]]) is str]
    plain = [slot for slot in slots if slot[1] == "as_int"]
    if found and (chance.random() < 0.8 or not plain):
        holder, key = chance.choice(found)
        holder[key] = mutate_expression(holder[key], chance)
    elif plain:
        holder, key = chance.choice(plain)
        hint = chance.choice((None, {"as_int": holder.pop(key)}, {"as_int": 10**30}, {"as_float": 1.5}, {"as_bool": True}))
        holder["as_expr"] = {"expr_str": mutate_expression("Symbol('s0', integer=True)", chance), "hint": hint}


def target(_: Json, slots: list[Slot], chance: random.Random) -> None:
    """A node calls another operator, or something that is none."""
    found = [slot for slot in slots if slot[1] == "target" and type(slot[0][slot[1]]) is str]
    if found:
        holder, key = chance.choice(found)
        others = [slot[0]["target"] for slot in found]
        holder[key] = chance.choice((chance.choice(TARGETS), chance.choice(others), mutate_string(holder[key], chance)))


def argument(_: Json, slots: list[Slot], chance: random.Random) -> None:
    """An argument is of another kind."""
    found = [slot for slot in slots if slot[1] == "arg" and isinstance(slot[0][slot[1]], dict)]
    if found:
        holder, key = chance.choice(found)
        others = [value for slot in found for value in slot[0][slot[1]].values()]
        value = chance.choice((*ATOMS, *INTEGERS, chance.choice(others) if others else None))
        holder[key] = {chance.choice(_ARGUMENTS): copy.deepcopy(value)}


def tensor(_: Json, slots: list[Slot], chance: random.Random) -> None:
    """A tensor is described otherwise."""
    found = [slot[0][slot[1]] for slot in slots if isinstance(slot[0][slot[1]], dict) and "sizes" in slot[0][slot[1]]]
    if not found:
        return
    described = chance.choice(found)
    sizes = [
        {"as_int": chance.choice((0, 1, 2, 3, chance.choice(INTEGERS)))} for _ in range(chance.choice((0, 1, 2, 4, 64, 65)))
    ]
    match chance.randrange(6):
        case 0:
            described["dtype"] = chance.choice((*range(30), *INTEGERS))
        case 1:
            described["layout"] = chance.choice((*range(9), *INTEGERS))
        case 2:
            kind = chance.choice(("cpu", "cuda", "meta", "mps", "xla", "hpu", "privateuseone", "", "CPU", "cpu:0", "vulkan"))
            described["device"] = {"type": kind, "index": chance.choice((None, 0, 1, -1, 127, 128, 1 << 31))}
        case 3:
            described["sizes"] = sizes
        case 4:
            described["sizes"], described["strides"] = sizes, copy.deepcopy(sizes)
        case _:
            described["storage_offset"] = {"as_int": chance.choice(INTEGERS)}
            described["requires_grad"] = chance.random() < 0.5


def tree_spec(_: Json, slots: list[Slot], chance: random.Random) -> None:
    """A tree spec becomes another."""
    if found := [slot for slot in slots if slot[1] in _TREE_SPECS and type(slot[0][slot[1]]) is str]:
        holder, key = chance.choice(found)
        holder[key] = mutate_tree_spec(holder[key], chance)


def order(_: Json, slots: list[Slot], chance: random.Random) -> None:
    """A list is in another order, or cut."""
    if found := [slot[0][slot[1]] for slot in slots if isinstance(slot[0][slot[1]], list) and len(slot[0][slot[1]]) > 1]:
        items = chance.choice(found)
        if chance.random() < 0.5:
            chance.shuffle(items)
        else:
            del items[chance.randrange(len(items)) :]


def metadata(_: Json, slots: list[Slot], chance: random.Random) -> None:
    """A node has other metadata."""
    if found := [slot[0][slot[1]] for slot in slots if slot[1] == "metadata" and isinstance(slot[0][slot[1]], dict)]:
        key = chance.choice(_METADATA)
        entry = chance.choice(found)
        entry[key] = mutate_string(str(entry.get(key, "")), chance) if chance.random() < 0.5 else chance.choice(STRINGS)


def symbol(parsed: Json, _: list[Slot], chance: random.Random) -> None:
    """A symbol has another range, or there is one that is nowhere else."""
    ranges = parsed.get("range_constraints") if isinstance(parsed, dict) else None
    if isinstance(ranges, dict):
        name = chance.choice((*ranges, "s0", "u0", "u1", "u999999", "u1000000", "s1", "zf0", chance.choice(STRINGS)))
        bounds = (None, *INTEGERS)
        ranges[name] = {"min_val": chance.choice(bounds), "max_val": chance.choice(bounds)}


def nest(_: Json, slots: list[Slot], chance: random.Random) -> None:
    """A graph stands in an argument: as the body of a call, in itself, many deep."""
    graphs = [slot[0][slot[1]] for slot in slots if slot[1] == "graph" and isinstance(slot[0][slot[1]], dict)]
    found = [slot for slot in slots if slot[1] == "arg"]
    if graphs and found:
        body = copy.deepcopy(chance.choice(graphs))
        for _ in range(chance.choice((0, 1, 2, 5))):
            outer = copy.deepcopy(graphs[0])
            places = [slot for slot in slots_of(outer) if slot[1] == "arg"]
            if not places:
                break
            holder, key = chance.choice(places)
            holder[key] = {"as_graph": {"name": "body", "graph": body}}
            body = outer
        holder, key = chance.choice(found)
        holder[key] = {"as_graph": {"name": chance.choice(("body", chance.choice(STRINGS))), "graph": body}}


def payload(parsed: Json, _: list[Slot], chance: random.Random) -> None:
    """A payload config names other records, or describes a tensor that is not there."""
    config = parsed.get("config") if isinstance(parsed, dict) else None
    if isinstance(config, dict):
        sizes = [{"as_int": chance.choice((0, 1, 4, 1 << 31, 1 << 62, -1))} for _ in range(chance.randrange(4))]
        strides = [{"as_int": chance.choice((0, 1, 4, -1, 1 << 31))} for _ in sizes]
        meta: dict[str, Json] = {
            "dtype": chance.randint(1, 14),
            "sizes": sizes,
            "requires_grad": chance.random() < 0.3,
            "layout": 7,
        }
        meta |= {"device": {"type": chance.choice(("cpu", "cuda", "meta")), "index": None}, "strides": strides}
        meta |= {"storage_offset": {"as_int": chance.choice((0, 1, 1 << 40, -1))}}
        path = chance.choice(("weight_0", "tensor_0", "weight_1", "custom_obj_0", "opaque_obj_0", chance.choice(STRINGS)))
        entry = {"path_name": path, "is_param": chance.random() < 0.5, "use_pickle": chance.random() < 0.2, "tensor_meta": meta}
        config[chance.choice((*config, "w", chance.choice(STRINGS)))] = entry


JSON_MUTATIONS: Final[tuple[JsonMutation, ...]] = (
    *(replace, number, string, remove, repeat, swap, transplant, add_field, rename, expression, expression, target, target),
    *(argument, argument, tensor, tensor, tree_spec, order, metadata, symbol, nest),
)

CONFIG_MUTATIONS: Final[tuple[JsonMutation, ...]] = (
    *(replace, number, string, remove, swap, transplant, add_field, tensor, tensor, payload, payload, payload),
)
