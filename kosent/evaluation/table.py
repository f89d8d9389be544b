"""The headline table of an evaluation, from the values in `results.json`."""

from __future__ import annotations

from typing import Any

METRICS = ("bleu_char", "chrf", "cosine", "distinct", "repetition", "foreign", "ended")


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
