"""Bars with intervals: the three similarity metrics side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kosent.files import atomic_path

TITLES = {"bleu_char": "BLEU (characters)", "chrf": "chrF", "cosine": "cosine"}
ALONE = {"distinct": "distinct replies", "repetition": "repetition", "ended": "ended by themselves"}
"""Where there is no reference."""


def plot_comparison(models: dict[str, Any], target: Path) -> None:
    """Writes a PNG with one panel a metric and one bar a model, in the order of `models`."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = list(models)
    titles = TITLES if "cosine" in models[names[0]]["values"] else ALONE
    figure, panels = plt.subplots(1, len(titles), figsize=(11, 3.2), dpi=120, layout="constrained")
    for axes, (metric, title) in zip(panels, titles.items(), strict=True):
        values = [models[name]["values"][metric] for name in names]
        bounds = [models[name]["intervals"][metric] for name in names]
        errors = [[max(0.0, v - low) for v, (low, _) in zip(values, bounds, strict=True)],
                  [max(0.0, high - v) for v, (_, high) in zip(values, bounds, strict=True)]]  # fmt: skip
        axes.barh(names, values, xerr=errors, color="#3b6fb6", ecolor="#444444", capsize=3)
        axes.invert_yaxis()
        axes.set_title(title)
        axes.spines[["top", "right"]].set_visible(False)
        if axes is not panels[0]:
            axes.set_yticklabels([])
    with atomic_path(target) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})
    plt.close(figure)
