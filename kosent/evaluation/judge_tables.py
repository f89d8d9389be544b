"""What judges and people said, as lines of text: entries of results.json's "judges" (`kosent.evaluation.judging`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any


def tables(entry: dict[str, Any]) -> Iterator[str]:
    """An entry of the results as lines of text."""
    if entry["kind"] == "rubric":
        yield from _rubric_table(entry)
    else:
        yield from _ranking_table(entry)
    yield from (f"! {words}" for words in entry["warnings"])


def _rubric_table(entry: dict[str, Any]) -> Iterator[str]:
    models = list(next(iter(entry["criteria"].values())))
    yield f"{entry['judge']}, {entry['prompt']}: {entry['replies']} replies, {entry['errors']} without scores"
    yield "| criterion | " + " | ".join(models) + " |"
    yield "|---" * (1 + len(models)) + "|"
    for name, row in entry["criteria"].items():
        cells = [f"{row[model]['mean']:.2f}{_bounds(row[model]['interval'], '.2f')}" for model in models]
        yield f"| {name} | " + " | ".join(cells) + " |"


def _ranking_table(entry: dict[str, Any]) -> Iterator[str]:
    ranking = entry["ranking"]
    shares = {"flips": ranking["flip_rate"], "errors": ranking["error_rate"], "first shown wins": ranking["first_shown_wins"]}
    told = ", ".join(f"{name} {share:.0%}" for name, share in shares.items() if share is not None)
    voices = "" if [entry["judge"]] == entry["voices"] else f" ({', '.join(entry['voices'])})"
    yield f"{entry['judge']}{voices}{', ' + entry['prompt'] if entry['prompt'] else ''}: {ranking['votes']} votes, {told}"
    yield "| | wins | ties | losses | win rate | at equal length |"
    yield "|---|---|---|---|---|---|"
    for pair in ranking["pairs"]:
        rates = [pair, pair["length_controlled"]]
        told = " | ".join("-" if r["win_rate"] is None else f"{r['win_rate']:.1%}{_bounds(r['interval'], '.1%')}" for r in rates)
        yield f"| {pair['first']} against {pair['second']} | {pair['wins']} | {pair['ties']} | {pair['losses']} | {told} |"
    for group in ranking["strengths"]:
        strengths = [f"{row['model']} {row['strength']:+.2f}{_bounds(row['interval'], '+.2f')}" for row in group]
        yield "Bradley-Terry strength: " + ", ".join(strengths)
    yield from ranking["notes"]
    for one in entry["agreement"]:
        if one["items"]:
            kappa = "not defined" if one["kappa"] is None else f"{one['kappa']:.2f}"
            yield f"Agrees with {one['with']} on {one['observed']:.0%} of {one['items']} shared pairs, kappa {kappa}."


def _bounds(interval: Sequence[float] | None, form: str) -> str:
    return "" if interval is None else f" [{interval[0]:{form}}, {interval[1]:{form}}]"
