"""Ranks of the right passage, summed up: recall@5, MRR, and what one system gains over another, with paired intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from common import Result
from rag_data import SEED, Question

RESAMPLES = 10_000
FUSION = "fusion"
Ranks = Sequence[int | None]
"""For each question the rank of its passage, from 1; None where it is not among those that were looked at."""
MEASURES: dict[str, Callable[[int | None], float]] = {
    "recall@5": lambda rank: float(rank is not None and rank <= 5),
    "MRR": lambda rank: 1 / rank if rank else 0.0,
}


def interval(differences: Sequence[float], passages: Sequence[str]) -> tuple[float, float, float]:
    """Mean and its 95 % bootstrap interval; whole passages are drawn, with their questions."""
    import numpy as np

    names, places = np.unique(np.asarray(passages), return_inverse=True)
    sums = np.bincount(places, weights=np.asarray(differences), minlength=len(names))
    counts = np.bincount(places, minlength=len(names))
    drawn = np.random.default_rng(SEED).multinomial(len(names), np.full(len(names), 1 / len(names)), size=RESAMPLES)
    low, high = np.percentile((drawn @ sums) / (drawn @ counts), [2.5, 97.5])
    return float(np.mean(differences)), float(low), float(high)


def compared(
    what: str, found: Mapping[str, Ranks], questions: Sequence[Question], places: Sequence[int], *, goal: bool = False
) -> list[Result]:
    """Of the questions at these places: both measures of each system, then the gain of `FUSION` over each."""
    results = [Result(f"{what}: questions", len(places), "questions", "", True)]
    if not places:
        return results
    values = {
        (measure, system): [value(ranks[place]) for place in places]
        for measure, value in MEASURES.items()
        for system, ranks in found.items()
    }
    for (measure, system), mine in values.items():
        results.append(Result(f"{what}: {system}, {measure}", round(sum(mine) / len(mine), 3), measure, "", True))
    for (measure, system), theirs in values.items():
        if system != FUSION:
            gains = [ours - other for ours, other in zip(values[measure, FUSION], theirs, strict=True)]
            mean, low, high = interval(gains, [questions[place].passage for place in places])
            name = f"{what}: {FUSION} - {system}, {measure} ({low:+.3f} to {high:+.3f})"
            results.append(Result(name, round(mean, 3), measure, "interval > 0" if goal else "", low > 0 or not goal))
    return results


def compact(results: Sequence[Result]) -> str:
    """The same as a table with a row for each system or gain and a column for each measure and set of questions."""
    cells: dict[str, dict[str, str]] = {}
    for result in results:
        what, _, rest = result.name.partition(": ")
        system, _, measure = rest.rpartition(", ")
        name, _, bounds = measure.partition(" ")
        if name in MEASURES:
            cells.setdefault(system, {})[f"{what}: {name}"] = f"{result.value:.3f} {bounds}".strip()
    columns = list(dict.fromkeys(column for row in cells.values() for column in row))
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    lines += [f"| {system} | " + " | ".join(row.get(column, "") for column in columns) + " |" for system, row in cells.items()]
    return "\n".join(lines)
