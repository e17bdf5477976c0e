"""Programs with calls of functorch's transforms in them, as `torch.export` writes them, and programs of operators that few models have."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.ao.quantization.fx._decomposed  # registers operators
from torch import nn
from torch.export import Dim, ExportedProgram
from torch.onnx import ops as onnx_ops
from transformers import LlamaConfig
from transformers.masking_utils import create_causal_mask

from .case import Inputs

_qd = torch.ops.quantized_decomposed


class _Function(nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self._function = function

    def forward(self, *args: Any) -> Any:
        return self._function(*args)


def _exported(module: nn.Module | Callable[..., Any], *args: Any, **options: Any) -> ExportedProgram:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.export(module if isinstance(module, nn.Module) else _Function(module), args, **options)


class _Examples(nn.Module):
    """A model for one example, called for many."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Linear(8, 4), nn.ReLU())

    def forward(self, x: torch.Tensor) -> Any:
        return torch.func.vmap(self.model)(x)


def _masked(x: torch.Tensor) -> torch.Tensor:
    rows, columns = torch.arange(x.shape[1]), torch.arange(x.shape[1])
    mask = torch.vmap(torch.vmap(lambda i, j: (j <= i) & (i - j < 4), in_dims=(None, 0)), in_dims=(0, None))(rows, columns)
    return nn.functional.scaled_dot_product_attention(x, x, x, attn_mask=mask)


def _twice(x: torch.Tensor) -> Any:
    return torch.vmap(lambda row: row.sin().exp())(x), torch.vmap(lambda row: row.sin().exp(), in_dims=1, out_dims=1)(x)


def _derivative(x: torch.Tensor, v: torch.Tensor) -> Any:
    return torch.func.jvp(lambda a: (a**3).sin(), (x,), (v,))


def _scanned(a: torch.Tensor, b: torch.Tensor) -> Any:
    def combine(x: Any, y: Any) -> Any:
        return x[0] * y[1] + y[0], x[1] * y[1]

    scan: Any = torch._higher_order_ops.associative_scan
    return scan(combine, (a, b), dim=0, combine_mode="generic")


def vmap_linear() -> tuple[ExportedProgram, list[Inputs]]:
    x = torch.randn(16, 8)
    return _exported(_Examples().eval(), x), [((x,), {})]


def vmap_mask() -> tuple[ExportedProgram, list[Inputs]]:
    program = _exported(_masked, torch.randn(2, 6, 8), dynamic_shapes=(({0: Dim.AUTO},),))
    return program, [((torch.randn(size, 6, 8),), {}) for size in (2, 5)]


def vmap_twice() -> tuple[ExportedProgram, list[Inputs]]:
    x = torch.randn(3, 3)
    return _exported(_twice, x), [((x,), {})]


def jvp() -> tuple[ExportedProgram, list[Inputs]]:
    x, v = torch.randn(3), torch.randn(3)
    return _exported(_derivative, x, v, strict=True), [((x, v), {})]


def associative_scan() -> tuple[ExportedProgram, list[Inputs]]:
    a, b = torch.rand(6, 3), torch.rand(6, 3)
    return _exported(_scanned, a, b), [((a, b), {})]


class _MaskOfTransformers(nn.Module):
    """Attention under a mask that the library makes by vmap, as it does where a model has a rule of its own for it."""

    def __init__(self) -> None:
        super().__init__()
        self._config = LlamaConfig(hidden_size=8, num_attention_heads=1, num_hidden_layers=1)
        self._config._attn_implementation = "sdpa"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mask = create_causal_mask(
            config=self._config,
            inputs_embeds=x,
            attention_mask=None,
            past_key_values=None,
            position_ids=None,
            and_mask_function=lambda batch, head, query, key: query - key < 3,
        )
        assert isinstance(mask, torch.Tensor)
        x = x[:, None]
        return nn.functional.scaled_dot_product_attention(x, x, x, attn_mask=mask)


def mask_of_transformers() -> tuple[ExportedProgram, list[Inputs]]:
    program = _exported(_MaskOfTransformers(), torch.randn(2, 6, 8), dynamic_shapes=({0: Dim.AUTO},))
    return program, [((torch.randn(size, 6, 8),), {}) for size in (2, 5)]


TRANSFORMS = (vmap_linear, vmap_mask, vmap_twice, jvp, associative_scan, mask_of_transformers)
"""Makers of programs with calls of functorch's transforms, each with arguments to call them with."""


class _Quantized(nn.Module):
    """What `convert_pt2e` makes of a linear layer: static and dynamic activations, weights by channel."""

    def __init__(self, dynamic: bool) -> None:
        super().__init__()
        self._dynamic = dynamic
        self.register_buffer("weight", torch.randint(-127, 127, (5, 4), dtype=torch.int8))
        self.register_buffer("scales", torch.rand(5) + 0.1)
        self.register_buffer("zeros", torch.zeros(5, dtype=torch.int64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self._dynamic:
            scale, zero = _qd.choose_qparams.tensor(x, -128, 127, 1e-5, torch.int8)
            x = _qd.quantize_per_tensor.tensor(x, scale, zero, -128, 127, torch.int8)
            x = _qd.dequantize_per_tensor.tensor(x, scale, zero, -128, 127, torch.int8)
        else:
            x = _qd.quantize_per_tensor.default(x, 0.05, 3, -128, 127, torch.int8)
            x = _qd.dequantize_per_tensor.default(x, 0.05, 3, -128, 127, torch.int8)
        weight = _qd.dequantize_per_channel.default(self.weight, self.scales, self.zeros, 0, -127, 127, torch.int8)
        return nn.functional.linear(x, weight)


def _quantized(dynamic: bool) -> tuple[ExportedProgram, list[Inputs]]:
    program = _exported(_Quantized(dynamic), torch.randn(2, 4), dynamic_shapes=({0: Dim("batch", max=64)},))
    return program, [((torch.randn(size, 4),), {}) for size in (2, 7)]


def quantized_statically() -> tuple[ExportedProgram, list[Inputs]]:
    return _quantized(False)


def quantized_dynamically() -> tuple[ExportedProgram, list[Inputs]]:
    return _quantized(True)


def rotary_of_onnx() -> tuple[ExportedProgram, list[Inputs]]:
    args = torch.randn(1, 2, 4, 8), torch.randn(10, 4), torch.randn(10, 4), torch.arange(4)[None]
    return _exported(onnx_ops.rotary_embedding, *args), [(args, {})]


def printing() -> tuple[ExportedProgram, list[Inputs]]:
    def prints(x: torch.Tensor) -> torch.Tensor:
        torch._higher_order_ops.print("size {x}", x=1)
        return x + 1

    x = torch.randn(2, 4)
    return _exported(prints, x), [((x,), {})]


def collectives() -> tuple[ExportedProgram, list[Inputs]]:
    """A program that communicates; there is nobody to run it with."""
    functional: Any = torch.ops._c10d_functional

    def reduced(x: torch.Tensor) -> torch.Tensor:
        gathered = functional.wait_tensor(functional.all_gather_into_tensor(x, 2, "0"))
        again = functional.wait_tensor(functional.all_gather_into_tensor(x, 2, "0"))
        functional.wait_tensor(functional.all_reduce(x, "sum", "0"))
        return gathered + again

    return _exported(reduced, torch.randn(2, 4)), []


RARE_OPERATORS = (quantized_statically, quantized_dynamically, rotary_of_onnx, printing, collectives)
"""Makers of programs with operators of namespaces besides `aten` that any server reads, each with arguments to call them with."""
