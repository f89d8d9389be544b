"""What judges and people said, for the page of `kosent evaluate`: entries of results.json's "judges" (judging.py, ranking.py)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from kosent.evaluation.drawings import Dot, dots


def entry(judge: Mapping[str, Any]) -> dict[str, Any]:
    """A ranking with its drawings, and what else is said of the judge."""
    ranking = judge.get("ranking") or {}
    pairs = [pair for pair in ranking.get("pairs", []) if pair["win_rate"] is not None]
    rates = [
        Dot(f"{pair['first']} against {pair['second']}", pair["win_rate"], _share(pair["win_rate"]), "first", pair["interval"])
        for pair in pairs
    ]
    strengths = [
        dots([Dot(row["model"], row["strength"], f"{row['strength']:+z.2f}", "first", row["interval"]) for row in group], 0.0)
        for group in ranking.get("strengths", [])
    ]
    rubric = [
        {"name": name, "drawn": dots([Dot(model, row["mean"], f"{row['mean']:.2f}", "first", row["interval"])
                                      for model, row in rows.items() if row["mean"] is not None])}
        for name, rows in (judge.get("criteria") or {}).items() if any(row["mean"] is not None for row in rows.values())
    ]  # fmt: skip
    others = {key: value for key, value in judge.items() if key not in ("judge", "kind", "ranking", "criteria", "warnings")}
    return {
        "name": judge.get("judge", ""), "kind": judge.get("kind", ""), "ranking": ranking, "rubric": rubric,
        "rates": dots(rates, 0.5, _share, (0, 1)) if rates else "", "strengths": strengths, "warnings": judge.get("warnings", []),
        "more": list(flat(others)),
    }  # fmt: skip


def _share(value: float) -> str:
    return f"{100 * value:.0f} %"


def flat(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings as (a.b, JSON)."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
