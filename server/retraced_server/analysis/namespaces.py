"""The namespaces of operators that are known, and what makes a server read them.

torch registers many namespaces. Of some every operator only computes, and executing it on fake tensors runs Python and meta kernels
only: programs may hold these by default. Others call machines, change settings, take addresses, or trust their arguments in native code:
whoever runs a server allows them by name (`serve --allow-namespace`). SECURITY.md has the reasons. Namespaces of other packages are allowed
where the module that registers them is loaded (`serve --import`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from retraced_pt2.operators import DEFAULT_NAMESPACES


@dataclass(frozen=True, slots=True)
class Namespace:
    """One namespace of operators.

    Attributes:
        module: What registers its operators when it is imported; empty where `import torch` does.
        package: What pip installs the module from; empty for torch's own.
        acts_outside: Whether its operators do what their schemas do not tell of, such as communicate: a call keeps its place.
    """

    module: str = ""
    package: str = ""
    acts_outside: bool = False


_BY_DEFAULT: Final = {
    **dict.fromkeys(sorted(DEFAULT_NAMESPACES), Namespace()),
    "quantized_decomposed": Namespace("torch.ao.quantization.fx._decomposed"),
    "onnx": Namespace("torch.onnx.ops"),
    "_c10d_functional": Namespace("torch.distributed._functional_collectives", acts_outside=True),
}

_COMPUTING: Final = (
    *(
        "_quantized",
        "quantized",
        "quantization",
        "mkl",
        "mkldnn",
        "mkldnn_prepacked",
        "onednn",
        "sparse",
        "rngprims",
        "_native",
    ),
    *("flex_lib", "inductor_prims", "static_runtime", "_test", "_torch_testing"),
)
_ACTING: Final = (
    *(
        "_c10d_functional_autograd",
        "c10d",
        "c10d_functional",
        "_dtensor",
        "symm_mem",
        "fsdp",
        "streams",
        "device_mesh",
        "bucketing",
    ),
    *(
        "profiler",
        "inductor",
        "debugprims",
        "debug_mode_ops",
        "export",
        "onnx_symbolic",
        "_inductor_test",
        "_inductor_debug",
        "ao",
    ),
)

_OF_PACKAGES: Final = {
    "torchvision": Namespace("torchvision", "torchvision"),
    "torchaudio": Namespace("torchaudio", "torchaudio"),
    "torchao": Namespace("torchao", "torchao"),
    "fbgemm": Namespace("fbgemm_gpu", "fbgemm-gpu-cpu"),
    "torch_scatter": Namespace("torch_scatter", "torch-scatter"),
    "torch_sparse": Namespace("torch_sparse", "torch-sparse"),
    "torch_cluster": Namespace("torch_cluster", "torch-cluster"),
    "torch_spline_conv": Namespace("torch_spline_conv", "torch-spline-conv"),
    "pyg": Namespace("pyg_lib", "pyg-lib"),
    "tensorrt": Namespace("torch_tensorrt", "torch-tensorrt"),
    "bitsandbytes": Namespace("bitsandbytes", "bitsandbytes"),
    "xformers": Namespace("xformers.ops", "xformers"),
    # Its mixtures of experts.
    "transformers": Namespace("transformers.integrations.moe", "transformers"),
    "flash_attn": Namespace("flash_attn", "flash-attn"),
    "dim_order_ops": Namespace("executorch.exir.passes.dim_order_ops_registry", "executorch"),
    "llama": Namespace("executorch.extension.llm.custom_ops.custom_ops", "executorch"),
    "cadence": Namespace("executorch.backends.cadence.aot.ops_registrations", "executorch"),
}

NAMESPACES: Final[Mapping[str, Namespace]] = {
    **_BY_DEFAULT,
    **dict.fromkeys(_COMPUTING, Namespace()),
    **dict.fromkeys(_ACTING, Namespace(acts_outside=True)),
    **_OF_PACKAGES,
}
"""What is known of namespaces, by name."""

TORCH_NAMESPACES: Final = frozenset(name for name, known in NAMESPACES.items() if not known.package)
"""Those of torch itself, whichever of its modules registers them, and whoever imports that."""

DEFAULT_MODULES: Final = tuple(known.module for known in _BY_DEFAULT.values() if known.module)
"""What has to be imported for the namespaces that are allowed by default."""


def how_to_allow(namespace: str, *, registered: bool) -> str:
    """Return what an operator does so that a server reads programs with operators of a namespace, as the rest of a sentence.

    Args:
        namespace: A namespace that is not allowed, or has no such operator.
        registered: Whether this process has operators of it.
    """
    known = NAMESPACES.get(namespace)
    if known is None and not registered:
        return "a server reads it that imports the module which registers its operators (`serve --import MODULE`)"
    if known is None or not known.package:
        return f"a server reads it that was started with `serve --allow-namespace {namespace}`"
    return f"a server reads it that was started with `serve --import {known.module}` (`pip install {known.package}`)"
