"""Traces calls into a graph of functional operators, as AOTAutograd traces a whole program. Checked with torch 2.13.0.

What stands here is what `run_decompositions` sets up around `make_fx` (torch/export/exported_program.py, torch/export/_trace.py,
torch/_functorch/_aot_autograd/graph_capture.py), for one call, or for some calls one after the other.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import fx
from torch._dispatch.python import enable_python_dispatcher
from torch._functorch._aot_autograd.functional_utils import from_fun, has_data_mutation, has_metadata_mutation, to_fun
from torch._guards import TracingContext, tracing
from torch._subclasses.fake_impls import op_implementations_dict
from torch._subclasses.functional_tensor import FunctionalTensor, FunctionalTensorMode
from torch.export._trace import (  # type: ignore[attr-defined]  # torch imports the first of these there
    _compiling_state_context,
    _disable_custom_triton_op_functional_decomposition,
    _ignore_backend_decomps,
)
from torch.export.exported_program import _override_composite_implicit_decomp
from torch.fx.experimental import proxy_tensor
from torch.fx.experimental.proxy_tensor import (
    ProxyTorchDispatchMode,
    PythonKeyTracer,
    disable_autocast_cache,
    get_proxy_slot,
    track_tensor_tree,
)

from retraced_server.torch_compat.decompositions import Decompositions
from retraced_server.torch_compat.fake_tensors import (
    FakeTensor,
    FakeTensorMode,
    can_record_gradients,
    disable_fake_tensor_cache,
)
from retraced_server.torch_compat.pytree import pytree
from retraced_server.torch_compat.symbolic_arithmetic import remembered_arithmetic
from retraced_server.torch_compat.symbolic_shapes import SYMBOLIC

__all__ = ["FunctionalTensor", "FunctionalTrace", "Number", "decomposing", "read_number"]


class Number:
    """A symbolic number among the arguments of a node, where torch has a node that computes it.

    Attributes:
        value: The number.
    """

    # A symbolic number is of any of three types that share no base.
    def __init__(self, value: Any) -> None:
        self.value = value

    def force(self) -> Any:
        """Return the number, as torch asks for the node."""
        return self.value


class _Numbers:
    """Every symbolic number stands for itself: nodes are not made for the arithmetic of sizes, which takes torch a fifth of the time."""

    # Keys and values are whatever torch tracks.
    def get(self, number: Any, default: Any = None) -> Number:
        return Number(number)

    def __getitem__(self, number: Any) -> Number:
        return Number(number)

    def __setitem__(self, number: Any, proxy: Any) -> None:
        pass

    def __contains__(self, number: Any) -> bool:
        return True


class _Tracer(PythonKeyTracer):
    def __init__(self) -> None:
        super().__init__()
        self.symnode_tracker = _Numbers()  # type: ignore[assignment]

    # Arguments are fx's own open types.
    def create_arg(self, a: Any) -> Any:
        if isinstance(a, SYMBOLIC):
            return Number(a) if a.node.constant is None else a.node.constant
        return super().create_arg(a)


class _Proxies(ProxyTorchDispatchMode):
    # A method of torch, whose arguments are any.
    def __sym_dispatch__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if func is operator.mul and any(isinstance(factor, int) and factor == 1 for factor in args):
            return args[0] if isinstance(args[1], int) and args[1] == 1 else args[1]
        return func(*args, **kwargs)


# A symbolic number is of any of three types that share no base.
def read_number(graph: fx.Graph, number: Any) -> Any:
    """Return the last node of a trace that computes a symbolic number, and where there is none the number."""
    return next((node for node in reversed(graph.nodes) if _computes(node, number)), number)


# As here.
def _computes(node: fx.Node, number: Any) -> bool:
    value = node.meta.get("val")
    return isinstance(value, SYMBOLIC) and value.node.expr == number.node.expr


@contextmanager
def decomposing(table: Decompositions, fake_mode: FakeTensorMode) -> Iterator[None]:
    """Have operators behave as while torch decomposes a program: those composite operators stay that the table does not have.

    torch registers kernels for some 500 operators each time, which takes 0.1 s; here it does so once for a table, and they are put back.
    """
    with (
        _ignore_backend_decomps(),
        _compiling_state_context(),
        _disable_custom_triton_op_functional_decomposition(),
        torch.no_grad(),
        tracing(TracingContext(fake_mode)),
        _composite_kernels(table).in_place(),
        _no_tensor_metadata(),
        disable_fake_tensor_cache(fake_mode),
        remembered_arithmetic(fake_mode.shape_env),
    ):
        yield


@contextmanager
def _no_tensor_metadata() -> Iterator[None]:
    """Have torch not describe each value of a trace once more, which nobody reads: it asks of sizes what no operator does, and makes guards."""
    described = proxy_tensor._extract_tensor_metadata  # type: ignore[attr-defined]  # imported there
    vars(proxy_tensor)["_extract_tensor_metadata"] = lambda _: None
    try:
        yield
    finally:
        vars(proxy_tensor)["_extract_tensor_metadata"] = described


class _CompositeKernels:
    """The Python kernels and fake kernels that composite operators have while torch decomposes a program.

    Args:
        composite: What torch is to do with each of these operators.
    """

    def __init__(self, composite: Mapping[Any, Callable[..., Any]]) -> None:
        before = dict(op_implementations_dict)
        with _override_composite_implicit_decomp(composite):
            self._kernels = {op: dict(op.py_kernels) for op in composite}
            self._fake = {op: kernel for op, kernel in op_implementations_dict.items() if op not in before}

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Put them in the place of those that the operators have otherwise."""
        saved = {op: dict(op.py_kernels) for op in self._kernels}
        try:
            self._put(self._kernels)
            op_implementations_dict.update(self._fake)
            yield
        finally:
            self._put(saved)
            for op in self._fake:
                op_implementations_dict.pop(op, None)

    @staticmethod
    def _put(kernels: Mapping[Any, Mapping[Any, Any]]) -> None:
        for op, of_keys in kernels.items():
            op.py_kernels.clear()
            op.py_kernels.update(of_keys)
            op._dispatch_cache.clear()


_MOST_TABLES = 8
_COMPOSITE_KERNELS: dict[tuple[tuple[Any, Any], ...], _CompositeKernels] = {}


def _composite_kernels(table: Decompositions) -> _CompositeKernels:
    key = tuple(table.composite.items())
    if key not in _COMPOSITE_KERNELS:
        if len(_COMPOSITE_KERNELS) >= _MOST_TABLES:
            _COMPOSITE_KERNELS.clear()
        _COMPOSITE_KERNELS[key] = _CompositeKernels(table.composite)
    return _COMPOSITE_KERNELS[key]


class FunctionalTrace:
    """A graph that grows by calls, which are executed on fake tensors under functionalization and decomposed as they are.

    Values of inputs and results are functional tensors, which know what was written to them and to what they are views of.

    Args:
        table: The decompositions; `decomposing` has to be entered with it while calls are traced.

    Attributes:
        graph: The graph, without an output node.
    """

    def __init__(self, table: Decompositions) -> None:
        self._tracer = _Tracer()
        self._tracer.graph = self.graph = fx.Graph(tracer_cls=PythonKeyTracer)
        self._tracer.root = torch.nn.Module()
        self._proxies = _Proxies(
            self._tracer, "real", decomposition_table=table.python, pre_dispatch=False, _error_on_data_dependent_ops=True
        )
        self._functional = FunctionalTensorMode(pre_dispatch=False, export=False, _allow_token_discovery=True)

    def input(self, value: FakeTensor) -> tuple[FunctionalTensor, fx.Node]:
        """Add an input, a fake tensor, and return the functional tensor of it, and its node."""
        proxy = self._tracer.create_proxy("placeholder", f"arg{len(self.graph.nodes)}", (), {})
        # An alias: what is tracked must not be what others track. torch traces what is lifted as inputs, whatever their values.
        alias: Any = value.detach()
        if value.requires_grad and can_record_gradients(value):
            alias.requires_grad_()
        alias.constant = None
        track_tensor_tree(alias, proxy, constant=None, tracer=self._tracer)
        with self._modes():
            return to_fun(alias), proxy.node

    def call(self, target: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Call an operator on functional tensors and numbers, and return its results of these kinds."""
        with self._modes():
            return target(*args, **kwargs)

    def read(self, value: Any) -> Any:
        """Return what a result is now: nodes of the graph in the place of functional tensors, and of numbers that operators returned."""
        with self._modes():
            return pytree.tree_map(self._read, value)

    def is_written(self, value: torch.Tensor) -> bool:
        """Whether an input was written to, through whatever view."""
        return has_data_mutation(value)

    def is_resized(self, value: torch.Tensor, given: torch.Tensor) -> bool:
        """Whether an input has other sizes, strides or another storage than it was given with."""
        return bool(has_metadata_mutation(value, given, check_only_storage_mutation=False))

    def _read(self, leaf: Any) -> Any:
        if isinstance(leaf, torch.Tensor):
            plain: Any = from_fun(leaf)
            slot: Any = get_proxy_slot(plain, self._tracer, None)
            return plain if slot is None else slot.proxy.node
        return read_number(self.graph, leaf) if isinstance(leaf, SYMBOLIC) else leaf

    @contextmanager
    def _modes(self) -> Iterator[None]:
        # As `make_fx` does: what it calls may be traced by others too.
        with ExitStack() as modes:
            modes.enter_context(enable_python_dispatcher())
            modes.enter_context(self._functional)
            modes.enter_context(self._proxies)
            modes.enter_context(disable_autocast_cache())
            yield
