"""Keeps a shape environment as it was, but for what new or changed nodes add to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from itertools import islice
from typing import Any, cast

import sympy
from torch import fx

from retraced_server.retrace._torch import (
    SHAPE_ENV_CACHES,
    SHAPE_ENV_CONTAINERS,
    SHAPE_ENV_SCALARS,
    FakeTensor,
    FakeTensorMode,
    ShapeEnv,
    pytree,
)
from retraced_server.retrace.values import SYMBOLIC

# Dictionaries of a ShapeEnv that a new operator may add to: symbols, their ranges, equalities between them.
_LEARNABLE = (
    "backed_var_to_val",
    "var_to_range",
    "var_to_range_sloc",
    "var_to_sources",
    "var_to_stack",
    "replacements",
    "replacements_slocs",
    "unbacked_renamings",
    "unbacked_alloc_order",
    "axioms",
)


def shape_env_of(module: fx.GraphModule) -> ShapeEnv | None:
    """Finds the shape environment of a graph by its recorded values; None if nothing in it is symbolic or fake."""
    mode: FakeTensorMode | None = None
    for node in module.graph.nodes:
        for leaf in pytree.tree_leaves(node.meta.get("val")):
            if isinstance(leaf, SYMBOLIC):
                return cast(ShapeEnv, leaf.node.shape_env)
            if mode is None and isinstance(leaf, FakeTensor):
                mode = leaf.fake_mode
                if mode.shape_env is not None:
                    return mode.shape_env
    return None


class _Snapshot:
    """A copy of all that a ShapeEnv knows."""

    def __init__(self, env: ShapeEnv) -> None:
        self.containers = {name: _copy(getattr(env, name)) for name in SHAPE_ENV_CONTAINERS}
        self.scalars = {name: getattr(env, name) for name in SHAPE_ENV_SCALARS}
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
        for name in SHAPE_ENV_CACHES:
            getattr(ShapeEnv, name).cache_clear()


def _copy(container: Any) -> Any:
    # The sources of a symbol are a list that grows.
    if isinstance(container, dict):
        return {key: list(value) if type(value) is list else value for key, value in container.items()}
    return container.copy()


class _Facts:
    """What a ShapeEnv knows that a new operator may add to, and a cheap mark that differs when that may have changed."""

    def __init__(self, env: ShapeEnv) -> None:
        self.mark = _mark(env)
        self.dicts = {name: dict(getattr(env, name)) for name in _LEARNABLE}
        self.size_like = set(env.size_like)
        self.guards = len(env.guards)
        self.asserts = {symbol: len(checks) for symbol, checks in env.deferred_runtime_asserts.items()}


def _mark(env: ShapeEnv) -> tuple[int, ...]:
    return (
        len(env.guards),
        env.num_deferred_runtime_asserts,
        env.unbacked_symint_counter,
        env.unbacked_symfloat_counter,
        len(env.var_to_range),
        len(env.replacements),
        env._version_counter,
    )


class ShapeEnvTransaction:
    """What happens to one shape environment during a retrace.

    Executing again an operator that the program has already must leave no trace: facts that it adds hold while the retrace lasts, since
    later operators may need them, and are taken back at its end. What a new operator adds stays, and its guards are reported.

    Args:
        env: The environment, or None for a program without one; then nothing here does anything.
    """

    def __init__(self, env: ShapeEnv | None) -> None:
        self._env = env
        self._before = None if env is None else _Snapshot(env)
        self._facts = None if env is None else _Facts(env)
        self._learned: dict[str, dict[Any, Any]] = {name: {} for name in _LEARNABLE}
        self._size_like: set[sympy.Symbol] = set()
        self._guards: list[Any] = []
        self._asserts: list[tuple[Any, Any]] = []

    @property
    def env(self) -> ShapeEnv | None:
        """The environment."""
        return self._env

    @property
    def new_guards(self) -> tuple[str, ...]:
        """Guards and deferred assertions that new operators added, as expressions."""
        return tuple(str(guard.expr) for guard in self._guards) + tuple(str(check.expr) for _, check in self._asserts)

    @contextmanager
    def learning(self, *, asserts: bool) -> Iterator[None]:
        """Runs a new operator: what it adds stays, and what the hook that made it has added.

        Args:
            asserts: Whether the operator states facts about symbols, which may refine a range without adding a guard.
        """
        env = self._env
        if env is None:
            yield
            return
        self._learn()
        yield
        self._learn(always=asserts)

    def _learn(self, *, always: bool = False) -> None:
        # Not only operators teach the environment: a hook that asks whether a size is 4 adds a guard too.
        env, known = self._env, self._facts
        if env is None or known is None or (not always and known.mark == _mark(env)):
            return
        for name, old in known.dicts.items():
            for key, value in getattr(env, name).items():
                if key not in old or (old[key] is not value and old[key] != value):
                    self._learned[name][key] = value
        self._size_like |= env.size_like - known.size_like
        self._guards.extend(env.guards[known.guards :])
        for symbol, checks in env.deferred_runtime_asserts.items():
            self._asserts.extend((symbol, check) for check in checks[known.asserts.get(symbol, 0) :])
        self._facts = _Facts(env)

    @contextmanager
    def repeating(self, *, asserts: bool) -> Iterator[None]:
        """Runs an operator that the program has already, with guards suppressed.

        Args:
            asserts: Whether the operator states facts about symbols: these must hold for the operators that follow it.
        """
        env = self._env
        if env is None:
            yield
            return
        self._learn()
        with nullcontext() if asserts else env.suppress_guards():
            yield
        if self._facts is None or asserts or self._facts.mark != _mark(env):
            self._facts = _Facts(env)

    def pending(self) -> list[sympy.Symbol]:
        """The unbacked symbols that operators made and no node has bound yet."""
        return [] if self._env is None else list(self._env.pending_fresh_unbacked_symbols)

    def symbol_count(self) -> int:
        """How many symbols there are: a mark for `symbols_since`."""
        return 0 if self._env is None else len(self._env.var_to_range)

    def symbols_since(self, count: int) -> set[sympy.Symbol]:
        """The symbols made since there were `count`."""
        return set() if self._env is None else set(islice(self._env.var_to_range, count, None))

    def forget(self, symbols: set[sympy.Symbol]) -> None:
        """Drops symbols that an operator made, when old ones stand in for them or nothing keeps them."""
        env = self._env
        if env is None or not symbols:
            return
        for holder in [*(getattr(env, name) for name in _LEARNABLE), *self._learned.values()]:
            for symbol in symbols:
                holder.pop(symbol, None)
        env.size_like -= symbols
        self._size_like -= symbols
        for waiting in (env.pending_fresh_unbacked_symbols, env.ignorable_fresh_unbacked_symbols):
            waiting[:] = [symbol for symbol in waiting if symbol not in symbols]
        self._guards = [guard for guard in self._guards if not guard.expr.free_symbols & symbols]
        self._asserts = [(symbol, check) for symbol, check in self._asserts if not check.expr.free_symbols & symbols]
        self._facts = _Facts(env)

    def roll_back(self) -> None:
        """Puts everything back as it was at the start."""
        if self._env is not None and self._before is not None:
            self._before.restore(self._env)

    def commit(self) -> None:
        """Takes back what repeated operators added and keeps what new ones did."""
        env = self._env
        if env is None or self._before is None:
            return
        self._learn()
        counters = (env.unbacked_symint_counter, env.unbacked_symfloat_counter)
        learned = bool(self._guards or self._asserts or self._size_like or any(self._learned.values()))
        self._before.restore(env)
        if not learned:
            return
        for name, facts in self._learned.items():
            getattr(env, name).update(facts)
        env.size_like |= self._size_like
        env.guards.extend(self._guards)
        for symbol, check in self._asserts:
            env.deferred_runtime_asserts.setdefault(symbol, []).append(check)
            env.num_deferred_runtime_asserts += 1
        env.unbacked_symint_counter, env.unbacked_symfloat_counter = counters
        env._update_version_counter()
