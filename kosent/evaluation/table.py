"""The tables of an evaluation, from the values in `results.json`: the headline, and all metrics."""

from __future__ import annotations

from typing import Any

from kosent.evaluation.definitions import METRICS as DEFINED
from kosent.evaluation.definitions import Metric

METRICS = ("bleu_char", "chrf", "cosine", "distinct", "repetition", "foreign", "ended")
"""Of the headline."""
_ARROWS = {"higher": " ↑", "lower": " ↓", "neither": ""}


def table(results: dict[str, Any]) -> str:
    """The headline table as Markdown, with 95 % intervals for BLEU, chrF and cosine, and the differences of the cosine."""
    models = results["models"]
    shown = [metric for metric in METRICS if any(metric in row["values"] for row in models.values())]
    names = [f"cosine ({results['embedder']})" if metric == "cosine" else metric for metric in shown]
    lines = ["| model | " + " | ".join(names) + " |", "|---" * (1 + len(shown)) + "|"]
    for name, row in models.items():
        cells = [_headline(metric, row) for metric in shown]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines.append("")
    for pair in results["comparisons"]["pairs"]:
        if pair["metric"] == "cosine" and pair["interval"]:
            low, high = pair["interval"]
            lines.append(f"Cosine, {pair['first']} - {pair['second']}: {pair['difference']:+.3f} [{low:+.3f}, {high:+.3f}]")
    decoding = results["settings"]["decoding"]
    how = f"sampled at temperature {decoding['temperature']:g}" if decoding["temperature"] else "greedy"
    lines += [
        *([""] if lines[-1] else []),
        f"{results['replies']} {'held-out replies' if results['references'] else 'replies'} of {results['dialogues']} dialogues, "
        f"{how}, at most {decoding['max_tokens']} tokens. Intervals: 95 %, bootstrap by dialogue.",
    ]
    if results["references"]:
        signatures = results["signatures"]
        lines.append(f"BLEU {signatures['bleu_char']}; chrF {signatures['chrf']}; cosine by {results['embedder']}.")
    failed = {name: row["failures"] for name, row in models.items() if row["failures"]}
    lines += [f"{name}: {number} prompts failed; they count as empty replies." for name, number in failed.items()]
    return "\n".join(lines) + "\n"


def _headline(metric: str, row: dict[str, Any]) -> str:
    value, digits = row["values"][metric], {"bleu_char": 1, "chrf": 1, "cosine": 3}.get(metric)
    if digits is None:
        return f"{value:.1%}"
    low, high = row["intervals"][metric]
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def all_metrics(results: dict[str, Any]) -> str:
    """A row a metric and a column a model as Markdown, with the intervals there are, and the signatures."""
    models = results["models"]
    lines = ["| metric | " + " | ".join(models) + " |", "|---" * (1 + len(models)) + "|"]
    for name, metric in DEFINED.items():
        if any(name in row["values"] for row in models.values()):
            cells = [_cell(metric, row["values"].get(name), row["intervals"].get(name)) for row in models.values()]
            lines.append(f"| {metric.label_en}{_ARROWS[metric.better]} | " + " | ".join(cells) + " |")
    lines += ["", "↑ higher is better, ↓ lower is better. docs/evaluation.md says what each is and what it does not see.", ""]
    lines += [f"- {DEFINED[name].label_en}: `{signature}`" for name, signature in results["signatures"].items()]
    if results["references"]:
        lines.append(f"- {DEFINED['cosine'].label_en}: `{results['embedder']}`")
    return "\n".join(lines) + "\n"


def _cell(metric: Metric, value: float | None, bounds: tuple[float, float] | None) -> str:
    if value is None:
        return "-"
    digits = 1 if metric.high > 1 else 3
    return f"{value:.{digits}f}" + (f" [{bounds[0]:.{digits}f}, {bounds[1]:.{digits}f}]" if bounds else "")
