"""A trace without functionalization has the nodes and values that one with it has."""

from __future__ import annotations

from typing import Any

import pytest
from torch import fx

from retraced_server.passes import run_pipeline
from retraced_server.passes.decompose.template import Template
from retraced_server.passes.decompose.templates import Templates
from retraced_server.torch_compat.functional_trace import Number
from retraced_server.torch_compat.plain_trace import NotPlainError, PlainTrace
from tests.support.models import by_name
from tests.support.operator_samples import sample_case

# Views, writes, factories, random numbers, tuples, empty results, values that are read, constants of decompositions.
_SAMPLES = (
    *("nn.functional.linear/0/dynamic", "nn.functional.layer_norm/0/dynamic", "nn.functional.gelu/0/static", "split/0/dynamic"),
    *("nn.functional.scaled_dot_product_attention/0/dynamic", "nn.functional.batch_norm/0/static", "addcmul/0/dynamic"),
    *("nn.functional.cross_entropy/0/dynamic", "var_mean/0/dynamic", "index_fill/0/static", "tril/1/dynamic", "fill/0/dynamic"),
    *(
        "nn.functional.pad.reflect/0/dynamic",
        "bernoulli/0/static",
        "linspace/0/static",
        "zeros_like/0/dynamic",
        "full/0/static",
    ),
    *(
        "nn.functional.interpolate.bilinear/0/dynamic",
        "matmul/0/dynamic",
        "std_mean/0/dynamic",
        "stft/0/static",
        "where/0/dynamic",
    ),
    *("nn.functional.max_pool2d/0/dynamic", "repeat_interleave/0/static", "logaddexp/0/dynamic", "cdist/0/dynamic"),
    *("nn.functional.embedding_bag/1/static", "fft.hfft/0/static"),
)


class _Traces:
    """What calls were traced to, with functionalization and without."""

    def __init__(self) -> None:
        self.plain = 0
        self.others: list[str] = []
        self.differences: list[str] = []

    def both(self, templates: Templates, target: Any, *call: Any) -> Template:
        template = templates._traced_by(templates.trace(), target, *call)
        try:
            plain = templates._traced_by(PlainTrace(templates._table), target, *call)
        except NotPlainError:
            self.others.append(str(target))
            return template
        self.plain += 1
        lines = _lines(template), _lines(plain)
        if lines[0] != lines[1]:
            self.differences.append("\n".join((str(target), *lines[0], "without functionalization:", *lines[1])))
        return template


@pytest.fixture
def traces(monkeypatch: pytest.MonkeyPatch) -> _Traces:
    found = _Traces()
    monkeypatch.setattr(Templates, "_traced", lambda templates, *call: found.both(templates, *call))
    return found


def _lines(template: Template) -> list[str]:
    names: dict[fx.Node, str] = {node: f"in{place}" for place, node in enumerate(template.inputs)}
    names |= {node: f"n{place}" for place, node in enumerate(template.nodes)}

    def text(value: Any) -> str:
        if isinstance(value, (tuple, list)):
            return f"[{', '.join(map(text, value))}]"
        if isinstance(value, dict):
            return text(sorted(value.items()))
        if isinstance(value, fx.Node):
            return names[value]
        return str(value.value if isinstance(value, Number) else value)

    def described(value: Any) -> str:
        if isinstance(value, (tuple, list)):
            return text([described(item) for item in value])
        if hasattr(value, "stride"):
            return f"{value.dtype} {value.device} {tuple(value.shape)} {value.stride()} {value.storage_offset()} {value.requires_grad}"
        return str(value)

    made = (f"{text(n)} = {n.target} {text(n.args)} {text(n.kwargs)}: {described(n.meta.get('val'))}" for n in template.nodes)
    return [*made, f"{text(template.results)} {template.is_identity}"]


@pytest.mark.parametrize("name", ["bert", "llama", "vit", "t5", "whisper", "gpt2", "residual_net", "everything"])
def test_programs_are_traced_alike(name: str, traces: _Traces) -> None:
    run_pipeline(by_name(name).program, "decompose")
    assert not traces.differences, "\n\n".join(traces.differences)
    assert traces.plain > len(traces.others)


# One test: torch's samples take many seconds to import.
@pytest.mark.slow
def test_operators_are_traced_alike(traces: _Traces) -> None:
    for name in _SAMPLES:
        run_pipeline(sample_case(name).build(), "decompose")
    assert not traces.differences, "\n\n".join(traces.differences)
    assert traces.plain > len(traces.others)
