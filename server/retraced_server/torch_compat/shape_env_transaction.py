"""Keeps a shape environment as it was, but for what new or changed nodes add to it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any
from weakref import WeakKeyDictionary

import sympy
import torch
from torch import fx

from retraced_server.torch_compat.fake_tensors import FakeTensor
from retraced_server.torch_compat.shape_env_fields import CACHED_METHODS, Field, fields
from retraced_server.torch_compat.symbolic_shapes import ShapeEnv, ValueRanges, canonicalize_bool_expr, int_oo, is_known

_LEARNABLE = fields(Field.LEARNABLE)
_CONTAINERS = fields(Field.LEARNABLE, Field.CONTAINER)
_SCALARS = fields(Field.SCALAR)

# How often an environment was put back: what was known of it before may not hold, though all numbers are as they were.
_RESTORED: WeakKeyDictionary[ShapeEnv, int] = WeakKeyDictionary()


class _Snapshot:
    """A copy of all that a ShapeEnv knows."""

    def __init__(self, env: ShapeEnv) -> None:
        self.containers = {name: _copy(getattr(env, name)) for name in _CONTAINERS}
        self.scalars = {name: getattr(env, name) for name in _SCALARS}
        self.asserts = {symbol: list(checks) for symbol, checks in env.deferred_runtime_asserts.items()}

    def restore(self, env: ShapeEnv) -> None:
        for name, saved in self.containers.items():
            live = getattr(env, name)
            live.clear()
            if isinstance(live, list):
                live.extend(saved)
            else:
                live.update(_copy(saved))
        for name, value in self.scalars.items():
            setattr(env, name, value)
        env.deferred_runtime_asserts.clear()
        env.deferred_runtime_asserts.update({symbol: list(checks) for symbol, checks in self.asserts.items()})
        for name in CACHED_METHODS:
            getattr(ShapeEnv, name).cache_clear()
        # Results of fake operators, which an operator that makes a guard would be given without making it.
        env.fake_tensor_cache.clear()
        _RESTORED[env] = _RESTORED.get(env, 0) + 1


def _copy(container: Any) -> Any:
    # The sources of a symbol are a list that grows.
    if isinstance(container, dict):
        return {key: list(value) if type(value) is list else value for key, value in container.items()}
    return container.copy()


class _Facts:
    """What a ShapeEnv knows that a new operator may add to, and a cheap mark that differs when that may have changed.

    Args:
        env: The environment.
        snapshot: A snapshot of it as it is now, if there is one.
    """

    def __init__(self, env: ShapeEnv, snapshot: _Snapshot | None = None) -> None:
        self.mark = _mark(env)
        if snapshot is not None:
            self.dicts = {name: snapshot.containers[name] for name in _LEARNABLE}
            self.size_like = snapshot.containers["size_like"]
        else:
            self.dicts = {name: dict(getattr(env, name)) for name in _LEARNABLE}
            self.size_like = set(env.size_like)
        self.guards = len(env.guards)
        self.asserts = {symbol: len(checks) for symbol, checks in env.deferred_runtime_asserts.items()}


def _mark(env: ShapeEnv) -> tuple[int, ...]:
    # Not the counters of symbols: a symbol that was made and forgotten leaves nothing else behind.
    return (
        len(env.guards),
        env.num_deferred_runtime_asserts,
        len(env.var_to_range),
        len(env.replacements),
        len(env.pending_fresh_unbacked_symbols),
        env._version_counter,
    )


class ShapeEnvTransaction:
    """What happens to one shape environment during a retrace.

    Executing again an operator that the program has already must leave no trace: facts that it adds hold while the retrace lasts, since
    later operators may need them, and are taken back at its end. What a new operator adds stays, and its guards are reported; so does
    what a hook adds that asks a symbolic size for its truth.

    Args:
        env: The environment, or None for a program without one; then nothing here does anything.
    """

    def __init__(self, env: ShapeEnv | None) -> None:
        self._env = env
        self._before = None if env is None else _Snapshot(env)
        # What was known before the new operators whose additions are still to be told.
        self._known = None if env is None else _Facts(env, self._before)
        self._start = () if self._known is None else self._known.mark
        # Ranges are refined without a mark: whether that may have happened at all, and since additions were told last.
        self._refined = False
        self._refined_lately = False
        self._refinements = 0
        # The mark from before a repeated operator, if it added anything.
        self._repeated: tuple[int, ...] | None = None
        self._learned: dict[str, dict[Any, Any]] = {name: {} for name in _LEARNABLE}
        self._size_like: set[sympy.Symbol] = set()
        self._guards: list[Any] = []
        self._asserts: list[tuple[Any, Any]] = []
        self._forgotten: set[sympy.Symbol] = set()
        # The canonical expression of a guard or an assertion -> where in the program it was added.
        self._places: dict[Any, str] = {}
        self._narrowing: list[Any] = []

    @property
    def env(self) -> ShapeEnv | None:
        """The environment."""
        return self._env

    def mark(self) -> tuple[int, ...]:
        """Return what is known of symbols, in short: it differs when anything was learned."""
        return () if self._env is None else (*_mark(self._env), self._refinements, _RESTORED.get(self._env, 0))

    @property
    def new_guards(self) -> tuple[str, ...]:
        """Guards and deferred assertions of new operators that narrow what the program accepts, and where they were added: see `commit`."""
        return tuple(f"{guard} {self._places.get(canonicalize_bool_expr(guard), '')}".rstrip() for guard in self._narrowing)

    @contextmanager
    def attributing(self, place: Callable[[], str]) -> Iterator[None]:
        """Note of each guard that is added where that is.

        Args:
            place: Says where in the program: `at node ...`, or nothing where no node is to blame.
        """
        if self._env is None:
            yield
            return
        members, log_guard = vars(self._env), self._env._log_guard
        outer = members.get("_log_guard")

        # Torch calls it whenever it adds, or would add, a guard or an assertion.
        def note(prefix: str, guard: Any, forcing_spec: bool) -> None:
            if "suppressed" not in prefix:
                self._places.setdefault(canonicalize_bool_expr(guard), place())
            log_guard(prefix, guard, forcing_spec)

        members["_log_guard"] = note
        try:
            yield
        finally:
            del members["_log_guard"]
            if outer is not None:
                members["_log_guard"] = outer

    @contextmanager
    def recording_guards(self, *, asserts: bool) -> Iterator[None]:
        """Run a new operator: what it adds stays, and what the hook that made it has added.

        Args:
            asserts: Whether the operator states facts about symbols, which may refine a range without adding a guard.
        """
        if self._env is not None:
            self._drop_repeated(self._env)
            if asserts:
                self._refined = self._refined_lately = True
                self._refinements += 1
        yield

    @contextmanager
    def suppressing_guards(self, *, asserts: bool, about: Iterable[sympy.Symbol] = ()) -> Iterator[None]:
        """Run an operator that the program has already, with guards suppressed.

        Args:
            asserts: Whether the operator states facts about symbols: these must hold for the operators that follow it.
            about: The symbols that the facts are about.
        """
        env = self._env
        if env is None:
            yield
            return
        self._drop_repeated(env)
        self._learn(env)
        mark = _mark(env)
        if not asserts:
            with env.suppress_guards():
                yield
        else:
            ranges = {symbol: env.var_to_range.get(symbol) for symbol in about}
            refined, self._refined = self._refined, True
            yield
            if any(env.var_to_range.get(symbol) != known for symbol, known in ranges.items()):
                mark = ()
                self._refinements += 1
            else:
                self._refined = refined
        if _mark(env) != mark:
            self._repeated = mark

    def _drop_repeated(self, env: ShapeEnv) -> None:
        if self._repeated is not None and _mark(env) != self._repeated:
            self._known = _Facts(env)
        self._repeated = None

    def _learn(self, env: ShapeEnv) -> None:
        known = self._known
        if known is None or (known.mark == _mark(env) and not self._refined_lately):
            return
        self._refined_lately = False
        for name, old in known.dicts.items():
            learned = self._learned[name]
            for key, value in getattr(env, name).items():
                if key not in old or (old[key] is not value and old[key] != value):
                    learned[key] = value
        self._size_like |= env.size_like - known.size_like
        self._guards.extend(env.guards[known.guards :])
        for symbol, checks in env.deferred_runtime_asserts.items():
            self._asserts.extend((symbol, check) for check in checks[known.asserts.get(symbol, 0) :])
        self._known = _Facts(env)

    def pending(self) -> list[sympy.Symbol]:
        """Return the unbacked symbols that operators made and no node has bound yet."""
        return [] if self._env is None else list(self._env.pending_fresh_unbacked_symbols)

    def symbol_count(self) -> int:
        """How many symbols there are: a mark for `symbols_since`."""
        return 0 if self._env is None else len(self._env.var_to_range)

    def symbols_since(self, count: int) -> set[sympy.Symbol]:
        """Return the symbols made since there were `count`."""
        if self._env is None:
            return set()
        symbols = self._env.var_to_range
        return set(islice(reversed(symbols), len(symbols) - count)) if len(symbols) > count else set()

    def forget(self, symbols: set[sympy.Symbol]) -> None:
        """Drop symbols that an operator made, when old ones stand in for them or nothing keeps them."""
        env = self._env
        if env is None or not symbols:
            return
        for holder in [*(getattr(env, name) for name in _LEARNABLE), *self._learned.values()]:
            for symbol in symbols:
                holder.pop(symbol, None)
        env.size_like -= symbols
        self._size_like -= symbols
        for waiting in (env.pending_fresh_unbacked_symbols, env.ignorable_fresh_unbacked_symbols):
            if waiting:
                waiting[:] = [symbol for symbol in waiting if symbol not in symbols]
        self._forgotten |= symbols

    def roll_back(self) -> None:
        """Put everything back as it was at the start."""
        env = self._env
        if env is None or self._before is None:
            return
        if self._refined or self._forgotten or self._repeated is not None or _mark(env) != self._start:
            self._before.restore(env)

    def commit(self, program: fx.GraphModule, add_own_guards: Callable[[fx.GraphModule], None]) -> None:
        """Take back what repeated operators added and keep what new ones did; finds which of the new guards narrow what the program accepts.

        A guard does not that follows from what the program says and needs itself: ranges, guards, assertions. Nor one that follows since the
        sizes of inputs are at least 2: torch.export presumes that of every dynamic size when it traces a program, whatever range it records
        (`ShapeEnv(specialize_zero_one=True)`), and what it exports does not check it. A program that was read from a file has the recorded
        ranges only, so that its operators, executed again, ask what was presumed.

        Args:
            program: The program's root graph module.
            add_own_guards: Adds the guards that the program's own nodes need.
        """
        env = self._env
        if env is None or self._before is None:
            return
        self._drop_repeated(env)
        self._learn(env)
        if self._forgotten:
            self._guards = [guard for guard in self._guards if not guard.expr.free_symbols & self._forgotten]
            self._asserts = [
                (symbol, check) for symbol, check in self._asserts if not check.expr.free_symbols & self._forgotten
            ]
            axioms = self._learned["axioms"]
            self._learned["axioms"] = {
                axiom: truth for axiom, truth in axioms.items() if not axiom.free_symbols & self._forgotten
            }
        counters = (env.unbacked_symint_counter, env.unbacked_symfloat_counter)
        learned = bool(self._guards or self._asserts or self._size_like or any(self._learned.values()))
        if not learned:
            self.roll_back()
            return
        self._before.restore(env)
        self._narrowing = self._find_narrowing(env, self._before, program, add_own_guards)
        for name, facts in self._learned.items():
            getattr(env, name).update(facts)
        env.size_like |= self._size_like
        env.guards.extend(self._guards)
        for symbol, check in self._asserts:
            env.deferred_runtime_asserts.setdefault(symbol, []).append(check)
            env.num_deferred_runtime_asserts += 1
        env.unbacked_symint_counter, env.unbacked_symfloat_counter = counters
        env._update_version_counter()

    def _find_narrowing(
        self, env: ShapeEnv, before: _Snapshot, program: fx.GraphModule, add_own_guards: Callable[[fx.GraphModule], None]
    ) -> list[Any]:
        added = [guard.expr for guard in self._guards] + [check.expr for _, check in self._asserts]
        # What new operators state of symbols of their own says nothing of the program's inputs.
        left = [guard for guard in added if guard.free_symbols <= env.var_to_range.keys()]
        if not left:
            return left
        try:
            _presume_sizes(env, program)
            left = [guard for guard in left if not is_known(env, guard)]
            if left:
                add_own_guards(program)
                left = [guard for guard in left if not is_known(env, guard)]
        finally:
            before.restore(env)
        return left


def _presume_sizes(env: ShapeEnv, program: fx.GraphModule) -> None:
    """Presume of the sizes of inputs what torch.export does: none is 0 or 1, unless it was when the program was exported."""
    for node in program.graph.find_nodes(op="placeholder"):
        value = node.meta.get("val")
        for size in value.shape if isinstance(value, FakeTensor) else ():
            symbol = size.node.expr if isinstance(size, torch.SymInt) else None
            # Torch keeps hints of derived sizes too, such as `s0 + 1`, which have no range of their own.
            if symbol not in env.var_to_range or env.backed_var_to_val.get(symbol, 0) < 2:
                continue
            interval = env.var_to_range[symbol]
            if interval.lower < 2 <= interval.upper:
                env.var_to_range[symbol] = interval & ValueRanges(2, int_oo)
    env._update_version_counter()
