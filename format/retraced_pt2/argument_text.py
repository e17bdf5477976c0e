"""Values and arguments of graphs as people read them, from the JSON of a model record: `f32[s77, 64]`, `[%x, 2]`, `channels_last`.

The JSON is that of torch/_export/serde/schema.py, major version 8. A text from a file is printed bare where it is a plain name, and else quoted
and escaped, so that it can look like nothing else. What is not of the schema raises a `FormatError`, or what using it raises: `KeyError`,
`TypeError`, `ValueError`, `AttributeError`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final, TypeVar

from retraced_pt2.errors import FormatError, shortened, unsupported
from retraced_pt2.expression_text import expression_text
from retraced_pt2.operators import higher_order_name, split_operator
from retraced_pt2.scalar_types import DTYPES, LAYOUTS, MEMORY_FORMATS, STRIDED

Object = dict[str, Any]
"""What `json.loads` gives for an object. `Any`: its shape is checked by using it, and the types of what is printed by `typed`."""

_Checked = TypeVar("_Checked")
_Print = Callable[[Any], str]

_WORD: Final = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_DOTTED: Final = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)
_ESCAPES: Final = {'"': '\\"', "\\": "\\\\"}
_FAMILIES: Final = (("bfloat", "bf"), ("float", "f"), ("complex", "c"), ("uint", "u"), ("int", "i"))


def _short_dtype(name: str) -> str:
    for long, short in _FAMILIES:
        if name.startswith(long):
            return name.replace(long, short, 1).replace("_", "")
    return "b8"


SHORT_DTYPES: Final = {number: _short_dtype(name) for number, name in DTYPES.items()}
"""The dtypes by the short names that torch gives them (torch/utils/_dtype_abbrs.py)."""


def typed(kind: type[_Checked], value: Any) -> _Checked:
    """Return a value that is exactly of a type: a truth value is no integer. Raises `TypeError` where it is not."""
    if type(value) is not kind:
        raise TypeError(f"{kind.__name__} expected, not {type(value).__name__}")
    return value


def member(union: Object) -> tuple[str, Any]:
    """Return the one member of a union that is set, by name. Raises `ValueError` where none is, or several."""
    ((kind, value),) = union.items()
    return kind, value


def quoted(text: Any) -> str:
    """Return a text between double quotes, on one line, with all escaped that is not printable ASCII: any console can show it."""
    if typed(str, text).isascii() and text.isprintable() and '"' not in text and "\\" not in text:
        return f'"{text}"'
    return '"' + "".join(_ESCAPES.get(character) or ascii(character)[1:-1] for character in text) + '"'


def word(text: Any) -> str:
    """Return a name: as it is where it is an identifier of ASCII, else quoted."""
    name = typed(str, text)
    return name if _WORD.fullmatch(name) else quoted(name)


def value_name(name: Any) -> str:
    """Return the name of a value: `%linear`."""
    return f"%{word(name)}"


def target(name: Any) -> str:
    """Return what is called: `aten.linear` for `torch.ops.aten.linear.default`; of any other operator with its overload."""
    text = typed(str, name)
    if operator := split_operator(text):
        return ".".join(operator).removesuffix(".default")
    if not _DOTTED.fullmatch(text):
        return quoted(text)
    return text.removeprefix("torch.ops.") if higher_order_name(text) else text


def number(value: Any) -> str:
    """Return a `Float` of the schema by its `repr`; torch writes those that JSON has no word for as strings."""
    if type(value) is str and value not in ("Infinity", "-Infinity", "NaN"):
        raise ValueError(f"{shortened(value, 64)} is no number")
    return repr(float(value if type(value) is str else typed(float, float(value) if type(value) is int else value)))


def device(value: Any) -> str:
    """Return a device: `cuda:0`."""
    index = value["index"]
    return word(value["type"]) + ("" if index is None else f":{typed(int, index)}")


class ArgumentText:
    """Prints the values and arguments of one program; each distinct expression is read once."""

    def __init__(self) -> None:
        self._expressions: dict[str, str] = {}
        # The subgraphs of the arguments that have been printed since they were last taken.
        self._subgraphs: list[Object] = []
        self._printers: dict[str, _Print] = {**_PLAIN, "as_graph": self._graph, "as_string_to_argument": self._mapping}

    def argument(self, argument: Object) -> str:
        """Return an argument of a call, or an output of a graph. Its subgraphs are kept for `take_subgraphs`."""
        kind, value = member(argument)
        if kind not in self._printers:
            raise unsupported(f"an argument of the kind `{shortened(kind, 64)}` is not read")
        return self._printers[kind](value)

    def take_subgraphs(self) -> list[Object]:
        """Return the subgraphs (`GraphArgument`) of the arguments that were printed since the last call."""
        taken, self._subgraphs = self._subgraphs, []
        return taken

    def definition(self, graph: Object, argument: Object) -> str:
        """Return an input of a graph or a result of a call with its type: `%x: f32[s77, 8]`; a constant as it is."""
        kind, value = member(argument)
        if kind in ("as_tensors", "as_optional_tensors"):
            parts = [{"as_tensor": one} if kind == "as_tensors" else one for one in typed(list, value)]
            return f"[{', '.join(self.definition(graph, one) for one in parts)}]"
        if kind in ("as_optional_tensor", "as_sym_int", "as_sym_float", "as_sym_bool") and member(value)[0] != "as_name":
            return self.definition(graph, value)
        name = defined_name(argument)
        return self.argument(argument) if name is None else f"{value_name(name)}: {self._type(graph, kind, name)}"

    def tensor(self, meta: Object) -> str:
        """Return the type of a tensor: `f32[s77, 64]`, and what is unusual of it: `f32[64] cuda:0 sparse_coo`."""
        sizes = ", ".join(map(self._size, typed(list, meta["sizes"])))
        place = device(meta["device"])
        layout = typed(int, meta["layout"])
        return (
            f"{_scalar_type(meta['dtype'])}[{sizes}]"
            + (f" {place}" if place != "cpu" else "")
            + (f" {_layout(layout)}" if layout != STRIDED else "")
        )

    def _type(self, graph: Object, kind: str, name: str) -> str:
        if kind == "as_tensor":
            return self.tensor(graph["tensor_values"][name])
        if kind == "as_custom_obj":
            return f"custom_obj {quoted(graph['custom_obj_values'][name]['class_fqn'])}"
        sort = kind.removeprefix("as_sym_")
        return f"{sort}({self._size(graph[f'sym_{sort}_values'][name])})"

    def _size(self, size: Object) -> str:
        """Return a `SymInt`, `SymFloat` or `SymBool`: a constant or an expression."""
        kind, value = member(size)
        if kind != "as_expr":
            return _PLAIN[kind](value)
        text = typed(str, value["expr_str"])
        if text not in self._expressions:
            self._expressions[text] = _readable(text)
        return self._expressions[text]

    def _graph(self, value: Object) -> str:
        self._subgraphs.append(value)
        return f"@{word(value['name'])}"

    def _mapping(self, value: Object) -> str:
        return "{" + ", ".join(f"{quoted(key)}: {self.argument(one)}" for key, one in sorted(value.items())) + "}"


def defined_name(argument: Object) -> str | None:
    """Return the name of the value that an argument is; None where it is a constant or several values."""
    _, value = member(argument)
    if type(value) is not dict:
        return None
    name = value.get("name", value.get("as_name"))
    return None if name is None else typed(str, name)


def _readable(text: str) -> str:
    try:
        return expression_text(text)
    except FormatError:
        # It is shown, and torch does not load it either.
        return quoted(text)


def _scalar_type(value: Any) -> str:
    return SHORT_DTYPES.get(typed(int, value)) or f"dtype({value})"


def _layout(value: Any) -> str:
    return LAYOUTS.get(typed(int, value)) or f"layout({value})"


def _memory_format(value: Any) -> str:
    return MEMORY_FORMATS.get(typed(int, value)) or f"memory_format({value})"


def _tensor(value: Object) -> str:
    return value_name(value["name"])


def _list(element: _Print) -> _Print:
    return lambda values: f"[{', '.join(map(element, typed(list, values)))}]"


def _named_or_plain(value: Object) -> str:
    """Return what is one of a few alternatives: an optional tensor, a symbolic number."""
    kind, one = member(value)
    return value_name(one) if kind == "as_name" else _PLAIN[kind](one)


def _integer(value: Any) -> str:
    return str(typed(int, value))


_PLAIN: Final[dict[str, _Print]] = {
    "as_none": lambda _: "None",
    "as_tensor": _tensor,
    "as_tensors": _list(_tensor),
    "as_nested_tensors": _list(_list(_tensor)),
    "as_optional_tensor": _named_or_plain,
    "as_optional_tensors": _list(_named_or_plain),
    "as_int": _integer,
    "as_ints": _list(_integer),
    "as_int_lists": _list(_list(_integer)),
    "as_float": number,
    "as_floats": _list(number),
    "as_float_lists": _list(_list(number)),
    "as_complex": lambda value: f"complex({number(value['real'])}, {number(value['imag'])})",
    "as_bool": lambda value: str(typed(bool, value)),
    "as_bools": _list(lambda value: str(typed(bool, value))),
    "as_string": quoted,
    "as_strings": _list(quoted),
    "as_sym_int": _named_or_plain,
    "as_sym_ints": _list(_named_or_plain),
    "as_sym_float": _named_or_plain,
    "as_sym_floats": _list(_named_or_plain),
    "as_sym_bool": _named_or_plain,
    "as_sym_bools": _list(_named_or_plain),
    "as_scalar_type": _scalar_type,
    "as_layout": _layout,
    "as_memory_format": _memory_format,
    "as_device": device,
    "as_operator": target,
    "as_custom_obj": _tensor,
}
"""How arguments are printed that hold no other arguments."""
