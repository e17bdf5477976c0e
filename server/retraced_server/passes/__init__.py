"""The built-in passes, their registry, and running them."""

from retraced_server.passes import cse, dce, decompose, retrace, view_to_view_copy  # noqa: F401 - importing them registers them
from retraced_server.passes.base import GraphPass, ProgramPass, ProgramPassResult
from retraced_server.passes.registry import Option, RegistrationError, catalogue, create_pass, load_plugins, register_pass
from retraced_server.passes.run import PipelineObserver, PipelineResult, PipelineStep, check_pipeline, create_step, run_pipeline
from retraced_server.pipeline.catalogue import IrLevel, WeightsNeed
from retraced_server.torch_compat.decompositions import register_decomposition_table

__all__ = [
    "GraphPass",
    "IrLevel",
    "Option",
    "PipelineObserver",
    "PipelineResult",
    "PipelineStep",
    "ProgramPass",
    "ProgramPassResult",
    "RegistrationError",
    "WeightsNeed",
    "catalogue",
    "check_pipeline",
    "create_pass",
    "create_step",
    "load_plugins",
    "register_decomposition_table",
    "register_pass",
    "run_pipeline",
]
