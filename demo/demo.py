"""Exports a small Llama, transforms it on a server, shows what changed, and checks that it still computes the same."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch.export import Dim, ExportedProgram
from transformers import LlamaConfig, LlamaForCausalLM

from retraced import Client, EmbeddedServer, TransformResult
from retraced.nodes import NodeOp

PIPELINE = "decompose{table=core-aten},cse,dce"
FOLDER = Path("build/demo")
VOCABULARY = 1000

# What is printed has brackets of its own: a shape is no markup.
console = Console(highlight=False, markup=False)


def inputs(batch: int, length: int) -> dict[str, torch.Tensor]:
    """Make the arguments of one call: token ids and a mask that hides the end of the first sequence."""
    mask = torch.ones(batch, length, dtype=torch.int64)
    mask[0, length // 2 :] = 0
    return {"input_ids": torch.randint(VOCABULARY, (batch, length)), "attention_mask": mask}


class Llama(torch.nn.Module):
    """Gives the logits alone, of a call without a cache."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.model = LlamaForCausalLM(config)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Run it."""
        logits: torch.Tensor = self.model(input_ids, attention_mask, use_cache=False).logits
        return logits


def export_llama() -> ExportedProgram:
    """Export a Llama with random weights: grouped-query attention, dynamic batch and sequence length."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=2,
        max_position_embeddings=256,
    )
    tokens = {0: Dim("batch", max=16), 1: Dim("length", max=128)}
    shapes = {"input_ids": tokens, "attention_mask": tokens}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.export(Llama(config).eval(), (), inputs(2, 16), dynamic_shapes=shapes)


def show(result: TransformResult) -> None:
    """Print what each pass did, which operators came and went, and a few of the new nodes."""
    passes = Table("pass", "changed", "rewrites", "nodes before", "nodes after", "seconds", title="What each pass did")
    for report in result.passes:
        changed = "yes" if report.modified else "no"
        before, after = str(report.nodes_before), str(report.nodes_after)
        passes.add_row(report.text, changed, str(report.rewrites), before, after, f"{report.seconds:.2f}")
    console.print(passes)

    assert result.summary.output is not None
    before_counts, after_counts = result.summary.input.targets, result.summary.output.targets
    operators = Table("operator", "before", "after", title="Operators that came and went most")
    differences = {name: after_counts.get(name, 0) - before_counts.get(name, 0) for name in {*before_counts, *after_counts}}
    for name in sorted(differences, key=lambda name: -abs(differences[name]))[:10]:
        operators.add_row(name, str(before_counts.get(name, 0)), str(after_counts.get(name, 0)))
    console.print(operators)

    made = [node for node in result.nodes if node.made_by and node.op is NodeOp.CALL_FUNCTION]
    nodes = Table(
        "node", "operator", "value", "comes from", "made by", title=f"Some of the {len(made)} operators that passes made"
    )
    for node in made[:: max(1, len(made) // 8)]:
        nodes.add_row(node.name, node.target, str(node.value), ", ".join(node.from_nodes), node.made_by)
    console.print(nodes)


def main() -> None:
    """Run the demo; the files stay in build/demo."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    original, transformed = FOLDER / "llama.pt2", FOLDER / "llama-core-aten.pt2"

    console.print("Exporting a Llama with torch.export ...")
    program = export_llama()
    torch.export.save(program, original)

    console.print(f"Starting a server, and sending it {original} with the pipeline {PIPELINE} ...")
    with EmbeddedServer() as server, Client(server.address) as client:
        result = client.transform(original, PIPELINE, node_metadata="changed")
        result.save(transformed)
    show(result)

    loaded = torch.export.load(transformed)
    for batch, length in ((2, 16), (5, 40)):
        call = inputs(batch, length)
        expected, actual = program.module()(**call), loaded.module()(**call)
        torch.testing.assert_close(actual, expected)
        console.print(f"Stock torch loads and runs the result: same logits for {batch} sequences of {length} tokens.")
    console.print(f"The transformed program is in {transformed}.")


if __name__ == "__main__":
    main()
