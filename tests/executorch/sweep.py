"""Runs every pass class of an installed executorch on programs, with its base class and with ours, and tells where the two differ.

python -m tests.executorch.sweep --level aten
python -m tests.executorch.sweep --level edge --only executorch.backends.xnnpack
"""

from __future__ import annotations

import argparse
import copy
import importlib
import inspect
import io
import logging
import multiprocessing
import pkgutil
import re
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

_PACKAGES = (
    "executorch.exir.passes",
    "executorch.backends.transforms",
    "executorch.backends.arm._passes",
    "executorch.backends.cadence.aot",
    "executorch.backends.cortex_m.passes",
    "executorch.backends.nxp.aten_passes",
    "executorch.backends.nxp.edge_passes",
    "executorch.backends.qualcomm._passes",
    "executorch.backends.samsung._passes",
    "executorch.backends.vulkan._passes",
    "executorch.backends.xnnpack._passes",
)
# Constructor parameters that are given the program.
_OF_PROGRAM = frozenset({"exported_program", "ep", "edge_program", "_exported_program"})
_ADDRESS = re.compile(r"0x[0-9a-f]+")


@dataclass
class Run:
    """One pass on one program.

    Attributes:
        error: What it failed with; None where it ended.
        graph: The new graph without names: for each node its kind, target, arguments, and dtype and sizes of its value.
        modified: What the pass says.
        names: The names of the new graph's nodes.
        outputs: What the new graph computes; None where it cannot be run.
    """

    error: str | None = None
    graph: list[Any] = field(default_factory=list)
    modified: bool | None = None
    names: list[str] = field(default_factory=list)
    outputs: list[Any] | None = None


def find_passes(level: str, only: str) -> Iterator[tuple[str, type]]:
    """Yields the pass classes whose module can be imported and that need no arguments of their own, by full name."""
    from executorch.exir import pass_base

    for package in _PACKAGES:
        # One is in the other.
        if not (package.startswith(only) or only.startswith(package)):
            continue
        try:
            path = importlib.import_module(package).__path__
        except (ImportError, RuntimeError):
            continue
        for info in pkgutil.walk_packages(path, f"{package}.", onerror=lambda name: None):
            if ".test" in info.name or not info.name.startswith(only):
                continue
            try:
                module = importlib.import_module(info.name)
            # A backend's module asks for its compiler in ways of its own.
            except Exception:  # noqa: BLE001
                continue
            for name, value in vars(module).items():
                is_pass = inspect.isclass(value) and value.__module__ == info.name and issubclass(value, pass_base.ExportPass)
                if is_pass and not inspect.isabstract(value) and _arguments(value, level, None) is not None:
                    yield f"{info.name}.{name}", value


def _arguments(pass_type: type, level: str, program: Any) -> dict[str, Any] | None:
    """Returns what a pass is constructed with, None where it needs what only its backend knows."""
    arguments: dict[str, Any] = {}
    for parameter in list(inspect.signature(pass_type.__init__).parameters.values())[1:]:  # type: ignore[misc]
        if parameter.name in _OF_PROGRAM:
            arguments[parameter.name] = program
        elif parameter.name == "tfa_pass":
            arguments[parameter.name] = level == "aten"
        elif parameter.default is parameter.empty and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            return None
    return arguments


def run(pass_type: type, level: str, program: Any, inputs: Any) -> Run:
    """Runs a pass on a copy of a program, and the graph that it makes."""
    torch.manual_seed(0)
    program = copy.deepcopy(program)
    try:
        result = pass_type(**_arguments(pass_type, level, program) or {})(program.graph_module)
        module = program.graph_module if result is None else result.graph_module
        module.graph.lint()
    # Whatever a pass raises is compared.
    except Exception as error:  # noqa: BLE001
        return Run(error=f"{type(error).__name__}: {error}")
    made = Run(
        graph=describe(module), modified=result is not None and result.modified, names=[n.name for n in module.graph.nodes]
    )
    try:
        module.recompile()
        made.outputs = pytree.tree_leaves(fx.Interpreter(module).run(*copy.deepcopy(inputs)))
    # Passes for one backend may leave what only its own runtime runs.
    except Exception:  # noqa: BLE001
        pass
    return made


def describe(module: fx.GraphModule) -> list[Any]:
    """Returns a graph without names. A constant is told by what it is where it is used: the classes make its node at different places."""
    nodes = [node for node in module.graph.nodes if node.op != "get_attr"]
    numbers = {node: at for at, node in enumerate(nodes)}

    def value(leaf: Any) -> Any:
        if isinstance(leaf, torch.Tensor):
            return str(leaf.dtype), [str(size) for size in leaf.shape]
        return type(leaf).__name__

    def argument(leaf: Any) -> Any:
        if isinstance(leaf, fx.Node) and leaf.op == "get_attr":
            attribute = _attribute(module, str(leaf.target))
            return describe(attribute) if isinstance(attribute, fx.GraphModule) else value(attribute)
        if isinstance(leaf, fx.Node):
            return numbers[leaf]
        if isinstance(leaf, (list, tuple)):
            return [argument(item) for item in leaf]
        if isinstance(leaf, dict):
            return {key: argument(item) for key, item in leaf.items()}
        return _ADDRESS.sub("", str(leaf))

    def described(node: fx.Node) -> list[Any]:
        is_call = node.op == "call_function"
        recorded = pytree.tree_map(value, node.meta.get("val")) if is_call else None
        target = _ADDRESS.sub("", str(node.target)) if is_call else ""
        return [node.op, target, argument(node.args), argument(node.kwargs), recorded]

    return [described(node) for node in nodes]


def _attribute(module: fx.GraphModule, target: str) -> Any:
    value: Any = module
    for part in target.split("."):
        value = getattr(value, part)
    return value


# -- two processes, one for each base class ------------------------------------------------------------------------------------------


def run_all(level: str, only: str, output: Path) -> None:
    """Runs all passes on all programs, each pass in a process forked for it, and writes what came out."""
    from tests.executorch.programs import programs

    made = programs(level)
    passes = dict(find_passes(level, only))
    context = multiprocessing.get_context("fork")
    results: dict[str, dict[str, Run]] = {"": {name: Run(graph=describe(p.graph_module)) for name, (p, _) in made.items()}}

    def of_pass(name: str, pipe: Any) -> None:
        runs = {program: run(passes[name], level, *made[program]) for program in made}
        # A pipe of multiprocessing would send tensors through shared memory.
        stream = io.BytesIO()
        torch.save(runs, stream)
        pipe.send_bytes(stream.getvalue())

    for name in passes:
        receiving, sending = context.Pipe(duplex=False)
        process = context.Process(target=of_pass, args=(name, sending))
        process.start()
        sending.close()
        try:
            results[name] = torch.load(io.BytesIO(receiving.recv_bytes()), weights_only=False)
        except EOFError:
            results[name] = {program: Run(error="the process died") for program in made}
        process.join()
    torch.save(results, output)


def compare(theirs: dict[str, dict[str, Run]], ours: dict[str, dict[str, Run]]) -> dict[str, list[str]]:
    """Returns, for each pass that works on ExecuTorch's class on at least one program, what differs on ours. The key "" is the programs."""
    found: dict[str, list[str]] = {}
    for name, runs in theirs.items():
        comparable = [program for program, made in runs.items() if made.error is None]
        if comparable:
            others = ours.get(name, {})
            found[name] = [
                f"{program}: {difference}"
                for program in comparable
                if (difference := _difference(runs[program], others.get(program, Run(error="no such pass")))) is not None
            ]
    return found


def _difference(one: Run, other: Run) -> str | None:
    if other.error is not None:
        return other.error
    if one.graph != other.graph:
        pairs = zip(one.graph, other.graph, strict=False)
        first = next((pair for pair in pairs if pair[0] != pair[1]), None)
        return f"{len(one.graph)} nodes, ours {len(other.graph)}" if first is None else f"{first[0]}, ours {first[1]}"
    if (one.outputs is None) is not (other.outputs is None):
        return "only one of the two graphs runs"
    if len(one.outputs or ()) != len(other.outputs or ()):
        return "another number of outputs"
    return None if all(map(_close, one.outputs or (), other.outputs or ())) else "other numbers"


def _close(one: Any, other: Any) -> bool:
    if not isinstance(one, torch.Tensor):
        return bool(one == other)
    return one.shape == other.shape and torch.allclose(one, other, rtol=1e-4, atol=1e-4, equal_nan=True)


def sweep(level: str, only: str = "") -> dict[str, list[str]]:
    """Runs the passes whose module begins with `only`, on either class in a process of its own, and compares."""
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for base in ("executorch", "retraced"):
            output = Path(folder, base)
            arguments = ["--level", level, "--only", only, "--base", base, "--output", str(output)]
            subprocess.run([sys.executable, "-m", "tests.executorch.sweep", *arguments], check=True)
            results.append(torch.load(output, weights_only=False))
    return compare(*results)


def main() -> None:
    """Compares, or runs the passes on one class."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--level", choices=("aten", "edge"), default="aten", help="what the programs are made of")
    parser.add_argument("--only", default="", help="take passes of modules whose name begins so")
    parser.add_argument("--base", choices=("executorch", "retraced"), help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.base is not None:
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        torch.set_num_threads(1)
        if given.base == "retraced":
            importlib.import_module("tests.executorch.on_our_class")
        run_all(given.level, given.only, given.output)
        return
    found = sweep(given.level, given.only)
    for name, differences in found.items():
        print(
            *(f"{name or 'to_edge'}: {difference[:500]}" for difference in differences),
            sep="\n",
            end="\n" if differences else "",
        )
    passes = {name: differences for name, differences in found.items() if name}
    print(f"{sum(not differences for differences in passes.values())} of {len(passes)} passes the same")


if __name__ == "__main__":
    main()
