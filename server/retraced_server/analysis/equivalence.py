"""Whether two programs are node for node the same, but for names, the order of independent nodes, and how sizes are computed."""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Hashable, Iterator
from typing import Any, Final

import sympy
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind

from retraced_server.analysis.graphs import node_key
from retraced_server.analysis.numbered_graphs import NumberedGraph, ValueTable, input_role, number_program, size_is_right

_MOST_ROUNDS: Final = 32
_LONGEST: Final = 200


def differences(ours: ExportedProgram, theirs: ExportedProgram) -> list[str]:
    """Compare two programs that were made of one in two ways, node for node.

    Compared are the calls with their arguments and how often each stands there, the subgraphs of higher-order operators, what is recorded of
    each value (dtype, device, layout, shape, strides, storage offset), the outputs, and the signature. Not compared are names, the order of
    nodes that do not depend on one another, whether an argument is given by its name or is a default that is written out, the messages of
    assertions, views that the next one undoes, and by which nodes sizes are computed: a size that is an argument is compared as an expression,
    of symbols that are named by where they come from. Ours may not have more nodes that compute sizes than theirs, and each has to record what
    it computes.

    Takes time linear in the sizes of the programs where they are the same, and so for each of at most 32 rounds where they are not.

    Args:
        ours: The program in question.
        theirs: What it is to be like.

    Returns:
        A sentence for each difference. What differs only since its inputs do is counted, not listed.
    """
    return _Comparison(ours, theirs).run()


def input_changes(before: ExportedProgram, after: ExportedProgram) -> list[str]:
    """Compare what two programs record of their inputs: dtypes, devices, sizes, strides and offsets, whatever symbols are called.

    Args:
        before: A program.
        after: What was made of it, which may have more inputs.

    Returns:
        A sentence for each input of the first that is recorded as something else.
    """
    table = ValueTable()
    was, now = _recorded_inputs(before, table), _recorded_inputs(after, table)
    return [
        f"input `{name}` is recorded with {_parted(now[name], recorded)} in the program"
        for name, recorded in was.items()
        if name in now and now[name] != recorded
    ]


def _recorded_inputs(program: ExportedProgram, table: ValueTable) -> dict[str, Any]:
    graph = number_program(program, table, {})
    return {node.name: graph.descriptions[node] for node in program.graph.find_nodes(op="placeholder")}


@dataclasses.dataclass(frozen=True)
class _Pair:
    """Two graphs that stand for one another, and those of their nodes whose value is not one of the other graph's or comes of such values."""

    ours: NumberedGraph
    theirs: NumberedGraph
    ours_apart: dict[fx.Node, None]
    theirs_apart: dict[fx.Node, None]


class _Comparison:
    """One comparison of two programs.

    A difference is found where a call of the one program is not in the other though its inputs are. Such calls are aligned, if they are of one
    operator or record the same, and taken for equal in the next round, which so finds what differs behind them.

    Args:
        ours: The program in question.
        theirs: What it is to be like.
    """

    def __init__(self, ours: ExportedProgram, theirs: ExportedProgram) -> None:
        self._ours, self._theirs = ours, theirs
        self._aligned: dict[fx.Node, fx.Node] = {}
        # The numbers of all nodes of theirs.
        self._numbers: dict[fx.Node, int] = {}
        # Aligned nodes of theirs, and nodes of both that were told of and have no counterpart.
        self._taken: set[fx.Node] = set()
        self._told: set[fx.Node] = set()
        self._found: list[str] = []

    def run(self) -> list[str]:
        table = ValueTable()
        theirs = number_program(self._theirs, table, {})
        rounds = 0
        while True:
            given = {one: self._numbers[other] for one, other in self._aligned.items()}
            pairs = list(self._pairs(number_program(self._ours, table, given), theirs))
            self._numbers = {node: number for pair in pairs for node, number in pair.theirs.nodes.items()}
            rounds += 1
            if not self._align(pairs):
                break
            if rounds == _MOST_ROUNDS:
                self._found.append(f"there may be more: the comparison ended after {rounds} rounds")
                break
        for pair in pairs:
            self._found += [*_counted(pair), *_recorded(pair), *_sizes(pair)]
        self._found += self._signatures(pairs[0])
        for pair in pairs:
            self._found += _returned(pair)
        ours_left = sum(node not in self._told for pair in pairs for node in pair.ours_apart if node in pair.ours.nodes)
        theirs_left = sum(node not in self._told for pair in pairs for node in pair.theirs_apart if node in pair.theirs.nodes)
        if ours_left or theirs_left:
            self._found.append(
                f"{ours_left} values of ours and {theirs_left} of theirs are of values that differ, and were not compared"
            )
        return self._found

    def _pairs(self, ours: NumberedGraph, theirs: NumberedGraph) -> Iterator[_Pair]:
        """Yield the two graphs and, of their subgraphs, those of equal numbers and those that were aligned."""
        waiting, seen = [(ours, theirs)], set()
        while waiting:
            ours, theirs = waiting.pop()
            if (id(ours), id(theirs)) in seen:
                continue
            seen.add((id(ours), id(theirs)))
            yield _Pair(ours, theirs, _apart(ours, theirs), _apart(theirs, ours))
            named = {theirs.nodes[node]: subgraph for node, subgraph in theirs.subgraphs.items()}
            for node, subgraph in ours.subgraphs.items():
                if (other := named.get(ours.nodes[node])) is not None:
                    waiting.append((subgraph, other))

    def _align(self, pairs: list[_Pair]) -> bool:
        """Align nodes at which graphs part. Whether there were any, or any that could not be aligned and were not told of before."""
        found = False
        parting = [
            (pair, self._parting(pair.ours, pair.ours_apart), self._parting(pair.theirs, pair.theirs_apart)) for pair in pairs
        ]
        for pair, ours, theirs in parting:
            for key in (_by_all(pair), _by_target, _by_inputs(pair)):
                for one, other in _matched(ours, theirs, key):
                    found = True
                    self._aligned[one] = other
                    self._taken.add(other)
                    if not self._told & {one, other} and one not in pair.ours.subgraphs:
                        self._found.append(f"ours has {_shown(pair.ours, one)} where theirs has {_shown(pair.theirs, other)}")
                    self._told |= {one, other}
                ours, theirs = ([n for n in ours if n not in self._aligned], [n for n in theirs if n not in self._taken])
        if found:
            return True
        for pair, ours, theirs in parting:
            for whose, whom, graph, nodes in (("ours", "theirs", pair.ours, ours), ("theirs", "ours", pair.theirs, theirs)):
                for node in nodes:
                    if node not in self._told:
                        found = True
                        self._told.add(node)
                        unused = "" if node.users else "; nothing uses it"
                        self._found.append(f"{whose} has {_shown(graph, node)}, which {whom} has not{unused}")
        return found

    def _parting(self, graph: NumberedGraph, apart: dict[fx.Node, None]) -> list[fx.Node]:
        """Return the nodes whose value is not one of the other graph's, though their inputs are or were told of."""
        return [
            node
            for node in apart
            if node in graph.nodes
            and node not in self._taken
            and all(value not in apart or value in self._told for value in _inputs(graph, node))
        ]

    def _signatures(self, pair: _Pair) -> Iterator[str]:
        for what, of in (("inputs", _input_specs), ("outputs", _output_specs)):
            ours, theirs = of(self._ours), of(self._theirs)
            if len(ours) != len(theirs):
                yield f"ours has {len(ours)} {what} in its signature, theirs has {len(theirs)}"
            for place, (one, other) in enumerate(zip(ours, theirs, strict=False)):
                if one != other:
                    yield f"of the {what} in the signature number {place} is {_text(one)} in ours and {_text(other)} in theirs"


def _apart(graph: NumberedGraph, other: NumberedGraph) -> dict[fx.Node, None]:
    """Return the nodes with a number that the other graph has not, and those that compute sizes of them, in order."""
    known = set(other.nodes.values())
    apart: dict[fx.Node, None] = {}
    for node in graph.module.graph.nodes:
        if node in graph.undone:
            continue
        if any(value in apart for value in node.all_input_nodes) if node in graph.sizes else graph.nodes.get(node) not in known:
            apart[node] = None
    return apart


def _inputs(graph: NumberedGraph, node: fx.Node) -> Iterator[fx.Node]:
    """Yield the values that a node takes; of a size that it takes, those that it is computed of."""
    waiting, seen = list(node.all_input_nodes), set(node.all_input_nodes)
    while waiting:
        value = waiting.pop()
        if value not in graph.sizes:
            yield value
            continue
        more = [each for each in value.all_input_nodes if each not in seen]
        seen.update(more)
        waiting += more


_Key = Callable[[fx.Node], Hashable]


def _matched(ours: list[fx.Node], theirs: list[fx.Node], key: _Key) -> Iterator[tuple[fx.Node, fx.Node]]:
    """Pair nodes of equal keys, the first with the first."""
    waiting: dict[Hashable, list[fx.Node]] = defaultdict(list)
    for node in reversed(theirs):
        waiting[key(node)].append(node)
    for node in ours:
        if same := waiting.get(key(node)):
            yield node, same.pop()


def _by_target(node: fx.Node) -> Hashable:
    # The attributes that hold subgraphs have names of no meaning.
    return node.op, str(node.target) if node.op == "call_function" else None


def _by_all(pair: _Pair) -> _Key:
    return lambda node: (_by_target(node), _description(pair, node))


def _by_inputs(pair: _Pair) -> _Key:
    def key(node: fx.Node) -> Hashable:
        numbers = pair.ours.nodes if node in pair.ours.nodes else pair.theirs.nodes
        return node.op, _description(pair, node), frozenset(numbers[n] for n in node.all_input_nodes if n in numbers)

    return key


def _description(pair: _Pair, node: fx.Node) -> Hashable:
    graph = pair.ours if node in pair.ours.nodes else pair.theirs
    return graph.descriptions[node]


def _counted(pair: _Pair) -> Iterator[str]:
    """Tell of calls that are in both graphs, but not as often."""
    theirs = pair.theirs.by_number()
    for number, nodes in pair.ours.by_number().items():
        others = theirs.get(number, ())
        if others and len(nodes) != len(others) and nodes[0].op == "call_function":
            names = ", ".join(f"`{node.name}`" for node in others[:4])
            yield f"ours has {_shown(pair.ours, nodes[0])} {_times(nodes)}, theirs {_times(others)}: {names}"


def _times(nodes: Collection[fx.Node]) -> str:
    return "once" if len(nodes) == 1 else f"{len(nodes)} times"


def _recorded(pair: _Pair) -> Iterator[str]:
    """Tell of values that are in both graphs, but are not recorded as the same; of those that come of such values how many there are."""
    theirs = pair.theirs.by_number()
    differ: set[fx.Node] = set()
    more = 0
    for number, nodes in pair.ours.by_number().items():
        others = theirs.get(number, [])
        unmatched = Counter(pair.theirs.descriptions[node] for node in others)
        odd = []
        for node in nodes:
            unmatched[pair.ours.descriptions[node]] -= 1
            if unmatched[pair.ours.descriptions[node]] < 0:
                odd.append(node)
        left = [node for node in others if unmatched[pair.theirs.descriptions[node]] > 0]
        if not odd or not left:
            continue
        if any(value in differ for value in _inputs(pair.ours, odd[0])):
            more += 1
        else:
            one, other = pair.ours.descriptions[odd[0]], pair.theirs.descriptions[left[0]]
            yield f"{_shown(pair.ours, odd[0])} is recorded with {_parted(one, other)} in theirs, as `{left[0].name}`"
        differ.update(odd)
    if more:
        yield f"{more} more values that come of these are recorded as something else too"


def _parted(ours: Any, theirs: Any) -> str:
    """Say in which facts two descriptions differ."""
    if len(ours) != len(theirs) or [name for name, _ in ours] != [name for name, _ in theirs]:
        return f"{_text(ours)}, and with {_text(theirs)}"
    for (name, one), (_, other) in zip(ours, theirs, strict=True):
        if one != other:
            if name.startswith("item"):
                return f"{name} of {_parted(one, other)}"
            return f"{name} {_text(one)}, and with {_text(other)}"
    raise AssertionError("descriptions that are the same")


def _sizes(pair: _Pair) -> Iterator[str]:
    """Tell of too many nodes that compute sizes, and of those that record something that they do not compute."""
    ours, theirs = len(pair.ours.sizes), len(pair.theirs.sizes)
    if ours > theirs:
        unused = "; the others are known, or nothing uses them" if _used_sizes(pair.ours) <= theirs else ""
        yield f"ours computes sizes by {ours} nodes{_of_graph(pair.ours)}, theirs by {theirs}{unused}"
    for node in pair.ours.sizes:
        if not size_is_right(node):
            yield f"{_shown(pair.ours, node)} does not come to what it records, {node.meta['val']}"


def _used_sizes(graph: NumberedGraph) -> int:
    """Count the nodes that compute sizes with symbols, of which something is made."""
    used: set[fx.Node] = set()
    for node, (_, expression) in reversed(graph.sizes.items()):
        has_symbols = isinstance(expression, sympy.Basic) and bool(expression.free_symbols)
        if has_symbols and any(user not in graph.sizes or user in used for user in node.users):
            used.add(node)
    return len(used)


def _returned(pair: _Pair) -> Iterator[str]:
    """Tell of outputs that are other values, though both graphs have both."""
    if len(pair.ours.outputs) != len(pair.theirs.outputs):
        yield f"ours returns {len(pair.ours.outputs)} values{_of_graph(pair.ours)}, theirs {len(pair.theirs.outputs)}"
    known = (set(map(_number_key, pair.ours.nodes.values())), set(map(_number_key, pair.theirs.nodes.values())))
    for place, (one, other) in enumerate(zip(pair.ours.outputs, pair.theirs.outputs, strict=False)):
        # What has no counterpart was told of.
        follows = (one in known[0] and one not in known[1]) or (other in known[1] and other not in known[0])
        if one != other and not follows:
            ours, theirs = _output_name(pair.ours, place), _output_name(pair.theirs, place)
            yield f"output {place}{_of_graph(pair.ours)} is {ours} in ours, and another value, {theirs}, in theirs"


def _number_key(number: int) -> Hashable:
    return "value", number


def _output_name(graph: NumberedGraph, place: int) -> str:
    returned = graph.module.graph.output_node().all_input_nodes
    key = graph.outputs[place]
    names = [f"`{node.name}`" for node in returned if node in graph.nodes and _number_key(graph.nodes[node]) == key]
    return names[0] if names else _text(key)


def _input_specs(program: ExportedProgram) -> list[Hashable]:
    places: Counter[InputKind] = Counter()
    found: list[Hashable] = []
    for spec in program.graph_signature.input_specs:
        found.append((input_role(program, spec, places[spec.kind]), spec.persistent))
        places[spec.kind] += 1
    return found


def _output_specs(program: ExportedProgram) -> list[Hashable]:
    inputs = program.graph_signature.input_specs
    places = {spec.arg.name: place for place, spec in enumerate(inputs)}
    return [
        (spec.kind.name, places.get(str(spec.target)) if spec.kind is OutputKind.USER_INPUT_MUTATION else spec.target)
        for spec in program.graph_signature.output_specs
    ]


def _of_graph(graph: NumberedGraph) -> str:
    return f" of graph `{graph.path}`" if graph.path else ""


def _shown(graph: NumberedGraph, node: fx.Node) -> str:
    arguments = ", ".join([*map(str, node.args), *(f"{name}={value}" for name, value in node.kwargs.items())])
    called = f"{node.target}({arguments})" if node.op == "call_function" else str(node.op)
    return f"`{node_key(graph.path, node.name)}` = {_short(called)}"


def _text(value: object) -> str:
    """Write keys and descriptions without the words that only tell them apart."""
    if isinstance(value, tuple) and len(value) == 2 and value[0] in ("int", "float", "bool", "number"):
        return _text(value[1])
    if isinstance(value, tuple):
        return _short(f"({', '.join(map(_text, value))})")
    return str(value)


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
