"""The comparisons as a picture: how many times faster than stock torch, for each task."""

from __future__ import annotations

from pathlib import Path

from benchmarks.results import Results


def plot(results: Results, path: Path) -> None:
    """Draw each task's median, and a dot for each program.

    Raises:
        ImportError: matplotlib is not installed; it is in the extra `bench`.
    """
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    # Tables after a section's first are variations on it.
    tables = [(section.name, section.comparisons[0]) for section in results.sections if section.comparisons]
    bars = [(f"{name}: {task}", table, task) for name, table in tables for task in table.tasks]
    figure, axes = plt.subplots(figsize=(8, 0.8 + 0.3 * len(bars)), layout="constrained")
    for at, (_, table, task) in enumerate(bars):
        axes.barh(at, table.median(task), color="#4477aa")
        axes.plot([entry.ratio for entry in table.of(task)], [at] * len(table.of(task)), "o", color="#222222", markersize=3)
        axes.annotate(f" {table.median(task):.1f}", (1, at), color="white", va="center", fontsize=8)
    axes.set_yticks(range(len(bars)), [label for label, _, _ in bars])
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlim(left=1)
    axes.set_xlabel("times faster than stock torch (bar: median, dots: architectures)")
    figure.savefig(path, dpi=100)
    plt.close(figure)
