"""Makes the zygote ready to fork: torch with one thread, the operator's modules, the plugins, and everything run once."""

from __future__ import annotations

import gc
import importlib
import os
import platform
import sys
import threading
from collections.abc import Iterable, Sequence
from functools import partial
from importlib import metadata
from pathlib import Path

import torch

from retraced_pt2.operators import DEFAULT_NAMESPACES
from retraced_server.analysis.namespaces import TORCH_NAMESPACES
from retraced_server.errors import RetracedError, text_of
from retraced_server.passes import RegistrationError, catalogue, load_plugins
from retraced_server.program import SCHEMA_VERSION, TORCH_VERSION, ReadOptions
from retraced_server.program.operators import Operators
from retraced_server.torch_compat.batch_dims import check_batch_dims
from retraced_server.torch_compat.fake_tensors import run_no_real_kernels
from retraced_server.torch_compat.operators import registered_operators
from retraced_server.torch_compat.pytree import registered_tree_types
from retraced_server.torch_compat.small_constants import keep_constants_small

# Named here though the zygote uses it later: what a worker runs is to be imported before the first fork.
from retraced_server.worker import child, sandbox  # noqa: F401
from retraced_server.worker.huge_pages import collapse_memory
from retraced_server.worker.messages import WorkerFacts
from retraced_server.worker.prepared import Prepared
from retraced_server.worker.sandbox import SandboxConfig, SandboxError
from retraced_server.worker.symbolic_caches import prewarm_symbolic_caches
from retraced_server.worker.warm_up import sample_archive, warm_up
from retraced_server.worker.written_pages import WrittenPages

# Objects that a worker makes between two collections: most jobs make fewer, so that none looks at the program, which is no garbage.
_COLLECTED_AFTER = 100_000


class PrepareError(Exception):
    """The zygote cannot be made ready; the message says why, and what to change."""


def prepare(
    imports: Sequence[str],
    config: SandboxConfig,
    *,
    allow_namespaces: Sequence[str] = (),
    allow_operators: Sequence[str] = (),
    newer_schema: bool = False,
) -> Prepared:
    """Import, warms up, makes the sandbox ready, and freezes what there is, so that forked workers share it.

    Args:
        imports: The operator's modules.
        config: How workers are locked down.
        allow_namespaces: Namespaces of torch's own operators that programs may hold, besides the usual.
        allow_operators: Single operators that programs may hold, besides those on the list.
        newer_schema: Whether they read programs of newer minor versions of the schema, as far as every field is known.

    Returns:
        What is ready, and what each worker locks itself down with.

    Raises:
        PrepareError: A module or a plugin cannot be imported, a namespace has no operators, an operator cannot be allowed, a module
            has started a thread, the warm-up failed, or the sandbox does not hold.
    """
    torch.set_num_threads(1)
    torch.set_num_interop_threads(1)
    # Or torch starts the monitor thread of its progress bars, which it makes even where it shows none. Either the library's, or a stand-in of
    # torch's own, for which it means nothing.
    vars(torch.hub)["tqdm"].monitor_interval = 0
    torchs_operators, torchs_types = frozenset(registered_operators()), frozenset(registered_tree_types())
    run_no_real_kernels()
    keep_constants_small()
    check_batch_dims()
    loaded = tuple((name, _load(name)) for name in imports)
    try:
        plugins = load_plugins()
    except RegistrationError as error:
        raise PrepareError(str(error)) from error
    # Before the warm-up, in which torch may load more of its own.
    options = ReadOptions(
        namespaces=_namespaces(_namespaces_of(torchs_operators), allow_namespaces),
        operators=_operators(allow_operators) | _brought(torchs_operators),
        tree_types=frozenset(registered_tree_types()) - torchs_types,
        newer_minors=newer_schema,
    )
    with sample_archive() as sample:
        warm_up(sample)
        prewarm_symbolic_caches()
        _check_single_thread()
        try:
            prepared = sandbox.prepare(config)
        except SandboxError as error:
            raise PrepareError(str(error)) from error
        # A plugin may be imported by name too.
        imported = tuple(dict.fromkeys((*loaded, *plugins.values())))
        facts = WorkerFacts(catalogue(), TORCH_VERSION, platform.python_version(), SCHEMA_VERSION, imported, prepared.report)
        gc.collect()
        # Collections in a worker then leave alone what it shares; touching it would copy it.
        gc.freeze()
        gc.set_threshold(_COLLECTED_AFTER)
        collapse_memory()
        written = WrittenPages(partial(warm_up, sample, "retrace"))
    return Prepared(facts, options, prepared, written)


def _namespaces(before: frozenset[str], allowed: Sequence[str]) -> frozenset[str]:
    """Return the namespaces that the operator's modules have registered and those that the operator allows by name.

    A module may bring more of torch's own with it, which nobody has asked for.
    """
    registered = _namespaces_of(registered_operators())
    for name in allowed:
        if name not in registered:
            raise PrepareError(
                f"no operators of the namespace `{name}` are registered, which --allow-namespace names; --import the module that registers them"
            )
    return (registered - before - TORCH_NAMESPACES) | frozenset(allowed)


def _operators(allowed: Sequence[str]) -> frozenset[str]:
    """Return the names of the single operators that are allowed, once it is known that a program may hold them."""
    names = frozenset(name.removeprefix("torch.ops.") for name in allowed)
    operators = Operators(frozenset(), names)
    for name in sorted(names):
        try:
            operators.find(f"torch.ops.{name}")
        except RetracedError as error:
            raise PrepareError(f"--allow-operator {name}: {error.message}") from error
    return names


def _brought(before: frozenset[str]) -> frozenset[str]:
    """Return the names of the operators that the imports have registered in namespaces that are read anyway, by a list of torch's own.

    Args:
        before: The names of the operators that were registered before.
    """
    names = (
        name.replace("::", ".")
        for name in set(registered_operators()) - before
        if name.partition("::")[0] in DEFAULT_NAMESPACES
    )
    return frozenset(name if name.count(".") > 1 else f"{name}.default" for name in names)


def _namespaces_of(operators: Iterable[str]) -> frozenset[str]:
    return frozenset(name.partition("::")[0] for name in operators)


def _load(name: str) -> str:
    # As last, so that nothing in the working directory can stand before an installed module.
    if (directory := str(Path.cwd())) not in sys.path:
        sys.path.append(directory)
    try:
        importlib.import_module(name)
    except (Exception, SystemExit) as error:
        raise PrepareError(
            f"the module `{name}` cannot be imported: {type(error).__name__}: {' '.join(text_of(error).split())}"
        ) from error
    package = name.partition(".")[0]
    distributions = metadata.packages_distributions().get(package, [package])
    try:
        return metadata.version(distributions[0])
    except metadata.PackageNotFoundError:
        return ""


def _check_single_thread() -> None:
    count = len(os.listdir("/proc/self/task"))
    if count == 1:
        return
    known = ", ".join(thread.name for thread in threading.enumerate() if thread is not threading.main_thread())
    raise PrepareError(
        f"{count - 1} thread(s) besides the main one run after the imports ({known or 'none of them Python threads'}); workers are forked, "
        "and a fork has only one thread: a module that is imported here must start its threads when they are first needed"
    )
