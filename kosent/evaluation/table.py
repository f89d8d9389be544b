"""The tables of an evaluation, from the values in `results.json`: the headline, and all metrics."""

from __future__ import annotations

from typing import Any

from kosent.evaluation.definitions import METRICS as DEFINED
from kosent.evaluation.definitions import Metric

METRICS = ("bleu_char", "chrf", "cosine", "distinct", "repetition", "foreign", "ended")
"""Of the headline."""
_ARROWS = {"higher": " ↑", "lower": " ↓", "neither": ""}


def table(results: dict[str, Any]) -> str:
    """The headline table as Markdown, with 95 % intervals for BLEU, chrF and cosine."""
    lines = ["| model | " + " | ".join(METRICS) + " |", "|---" * (1 + len(METRICS)) + "|"]
    for name, row in results["models"].items():
        cells = []
        for metric in METRICS:
            value = row["values"][metric]
            if metric in ("bleu_char", "chrf"):
                low, high = row["intervals"][metric]
                cells.append(f"{value:.1f} [{low:.1f}, {high:.1f}]")
            elif metric == "cosine":
                low, high = row["intervals"][metric]
                cells.append(f"{value:.3f} [{low:.3f}, {high:.3f}]")
            else:
                cells.append(f"{value:.1%}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines.append("")
    for name, difference in results["cosine_differences"].items():
        low, high = difference["interval"]
        lines.append(f"Cosine, {name}: {difference['cosine']:+.3f} [{low:+.3f}, {high:+.3f}]")
    lines += [
        "",
        f"{results['replies']} held-out replies of {results['dialogues']} dialogues, greedy, at most "
        f"{results['decoding']['max_tokens']} tokens. "
        "Intervals: 95 %, bootstrap by dialogue.",
        f"BLEU {results['signatures']['bleu_char']}; chrF {results['signatures']['chrf']}; cosine by {results['embedder']}.",
    ]
    return "\n".join(lines) + "\n"


def all_metrics(results: dict[str, Any]) -> str:
    """A row a metric and a column a model as Markdown, with the intervals there are, and the signatures."""
    models = results["models"]
    lines = ["| metric | " + " | ".join(models) + " |", "|---" * (1 + len(models)) + "|"]
    for name, metric in DEFINED.items():
        if all(name in row["values"] for row in models.values()):
            cells = [_cell(metric, row["values"][name], row["intervals"].get(name)) for row in models.values()]
            lines.append(f"| {metric.label_en}{_ARROWS[metric.better]} | " + " | ".join(cells) + " |")
    lines += ["", "↑ higher is better, ↓ lower is better. docs/evaluation.md says what each is and what it does not see.", ""]
    lines += [f"- {DEFINED[name].label_en}: `{signature}`" for name, signature in results["signatures"].items()]
    lines.append(f"- {DEFINED['cosine'].label_en}: `{results['embedder']}`")
    return "\n".join(lines) + "\n"


def _cell(metric: Metric, value: float, bounds: tuple[float, float] | None) -> str:
    digits = 1 if metric.high > 1 else 3
    return f"{value:.{digits}f}" + (f" [{bounds[0]:.{digits}f}, {bounds[1]:.{digits}f}]" if bounds else "")
