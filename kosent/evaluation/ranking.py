"""Which of two replies is better, put together: win rates, a length-controlled win rate, and a Bradley-Terry ranking.

A vote is one judgement of two replies to one prompt, `a` shown first. Where a judge saw a pair in both orders, the two votes are
one verdict: what they agree on, else a tie; the share that disagrees is the flip rate. With an error among them there is none.
Prompts are drawn for the intervals, not votes: what is said of one prompt hangs together.

    win rate      wins and half of the ties, every prompt counting once; Wilson's 95 % interval over prompts, which is also right
                  where one model always wins, and on the safe side where there are ties
    length        win rate at equal length, after AlpacaEval 2 (Dubois et al. 2024): a logistic regression of the verdict on
                  tanh(difference of lengths / its standard deviation), read at 0. Simplified: one pair of models at a time,
                  and no term for how hard an instruction is, which there is estimated from many models' votes
    strength      Bradley-Terry, maximum likelihood by Newton's method, logarithmic, mean 0 (a difference of 1 wins 73 %); with
                  three or more models. Ties are half a win each. Davidson's (1970) model would add how readily a judge calls a
                  tie, which matters for foretelling ties; here most ties are a judge's disagreement with itself

To keep everything finite, each compared pair is given one prompt more that ended in a tie (for the length-controlled rate half of
it with the one reply longer, half with the other). Models that no chain of comparisons connects are ranked apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np

from kosent.errors import DataError
from kosent.evaluation.statistics import Array, Resampling

PRIOR = 1.0
"""Ties that each compared pair is given."""
_Z = 1.959963984540054  # of a 95 % interval


@dataclass(frozen=True)
class Vote:
    """`a` is the model whose reply was shown first; lengths in characters, None where unknown."""

    prompt: str | int
    a: str
    b: str
    outcome: Literal["a", "b", "tie", "error"]
    length_a: int | None = None
    length_b: int | None = None
    judge: str = ""
    """Verdicts of different judges, or people, on one prompt are kept apart."""


@dataclass(frozen=True)
class Verdict:
    """What the votes of one judge on one pair at one prompt come to; `first` and `second` in the order of the model names."""

    prompt: str | int
    first: str
    second: str
    score: float | None
    """1: first is better, 0: second, 0.5: tie, None: an error."""
    both_orders: bool
    flipped: bool
    longer: int | None
    """Length of the first reply less that of the second."""


def verdicts(votes: Iterable[Vote]) -> list[Verdict]:
    """One verdict a judge, prompt and pair. Raises `DataError` for a vote that cannot be."""
    found: dict[tuple[str, str | int, str, str], dict[bool, Vote]] = {}
    for vote in votes:
        if vote.a == vote.b:
            raise DataError(f"Prompt {vote.prompt!r}: {vote.a} is compared with itself.")
        if vote.outcome not in ("a", "b", "tie", "error"):
            raise DataError(f"Prompt {vote.prompt!r}: the outcome is {vote.outcome!r}, not a, b, tie or error.")
        first, second = sorted((vote.a, vote.b))
        orders = found.setdefault((vote.judge, vote.prompt, first, second), {})
        if (vote.a == first) in orders:
            raise DataError(f"Prompt {vote.prompt!r}: two votes of one judge on {vote.a} before {vote.b}.")
        orders[vote.a == first] = vote
    return [_verdict(prompt, first, second, orders) for (_, prompt, first, second), orders in found.items()]


def _verdict(prompt: str | int, first: str, second: str, orders: dict[bool, Vote]) -> Verdict:
    points = {"a": 1.0, "b": 0.0, "tie": 0.5}
    scores, longer = [], None
    for forward, vote in orders.items():
        if vote.outcome != "error":
            scores.append(points[vote.outcome] if forward else 1 - points[vote.outcome])
        if vote.length_a is not None and vote.length_b is not None:
            longer = (vote.length_a - vote.length_b) * (1 if forward else -1)
    flipped = len(set(scores)) > 1
    score = None if len(scores) < len(orders) else 0.5 if flipped else scores[0]
    return Verdict(prompt, first, second, score, len(scores) == 2, flipped, longer)


def rank(votes: Sequence[Vote]) -> dict[str, Any]:
    """Plain data: rates of errors and flips, every pair's win rates, and the ranking of three or more models, with words."""
    if not votes:
        raise DataError("There is no vote to rank by.")
    judged = verdicts(votes)
    twice = [verdict for verdict in judged if verdict.both_orders]
    decided = [vote for vote in votes if vote.outcome in ("a", "b")]
    valid = [verdict for verdict in judged if verdict.score is not None]
    groups = components(valid, sorted({model for vote in votes for model in (vote.a, vote.b)}))
    pairs = sorted({(verdict.first, verdict.second) for verdict in judged})
    return {
        "votes": len(votes),
        "error_rate": sum(vote.outcome == "error" for vote in votes) / len(votes),
        "flip_rate": sum(verdict.flipped for verdict in twice) / len(twice) if twice else None,
        "first_shown_wins": sum(vote.outcome == "a" for vote in decided) / len(decided) if decided else None,
        "pairs": [_pair([v for v in judged if (v.first, v.second) == pair]) for pair in pairs],
        "strengths": [_strengths(group, valid) for group in groups if len(group) > 2],
        "notes": _notes(groups, valid),
    }


def _pair(judged: Sequence[Verdict]) -> dict[str, Any]:
    """How often `first` won against `second`."""
    valid = [verdict for verdict in judged if verdict.score is not None]
    scores: dict[str | int, list[float]] = {}
    for verdict in valid:
        scores.setdefault(verdict.prompt, []).append(float(verdict.score or 0.0))
    means = [sum(values) / len(values) for values in scores.values()]
    rate = sum(means) / len(means) if means else None
    return {
        "first": judged[0].first,
        "second": judged[0].second,
        "prompts": len(means),
        "wins": sum(verdict.score == 1 for verdict in valid),
        "ties": sum(verdict.score == 0.5 for verdict in valid),
        "losses": sum(verdict.score == 0 for verdict in valid),
        "errors": len(judged) - len(valid),
        "win_rate": rate,
        "interval": None if rate is None else wilson(rate, len(means)),
        "length_controlled": length_controlled(valid),
    }


def wilson(rate: float, count: int) -> tuple[float, float]:
    """Wilson's (1927) 95 % score interval of a share of `count`."""
    middle = (rate + _Z**2 / (2 * count)) / (1 + _Z**2 / count)
    half = _Z * float(np.sqrt(rate * (1 - rate) / count + _Z**2 / (4 * count**2))) / (1 + _Z**2 / count)
    return max(0.0, middle - half), min(1.0, middle + half)


def length_controlled(judged: Sequence[Verdict], prior: float = PRIOR) -> dict[str, Any]:
    """The win rate of the first model if its replies were as long as the second's; 95 % bootstrap interval by prompt."""
    known = [verdict for verdict in judged if verdict.score is not None and verdict.longer is not None]
    lengths = np.array([verdict.longer for verdict in known], dtype=float)
    if len(known) < 2:
        return {"win_rate": None, "interval": None, "note": "The lengths of two or more judged pairs of replies are needed."}
    if lengths.std() == 0:
        if lengths[0] == 0:
            words = "All pairs are of equal length."
        else:
            words = "The length differs by the same everywhere: its effect cannot be told."
        return {"win_rate": None, "interval": None, "note": words}
    scores = np.array([verdict.score for verdict in known])
    shift = np.concatenate([np.tanh(lengths / lengths.std()), [1.0, -1.0]])
    design = np.stack([np.ones(len(shift)), shift], axis=1)
    drawn = Resampling([verdict.prompt for verdict in known])
    often = np.concatenate([np.ones((1, len(known))), drawn.counts[:, drawn.place].astype(float)])
    ties = np.full((len(often), 2), prior / 2)
    fitted = fit_logistic(design, np.hstack([often * scores, ties / 2]), np.hstack([often, ties]))
    rates = 1 / (1 + np.exp(-fitted[:, 0]))
    outside = lengths.min() > 0 or lengths.max() < 0
    note = "One model's replies are always the longer ones: the rate at equal length is extrapolated." if outside else None
    return {"win_rate": float(rates[0]), "interval": drawn.bounds(rates[1:, None])[0], "note": note}


def components(judged: Iterable[Verdict], models: Sequence[str]) -> list[list[str]]:
    """`models` in groups that a chain of comparisons connects."""
    group = {model: {model} for model in models}
    for verdict in judged:
        joined = group[verdict.first] | group[verdict.second]
        for model in joined:
            group[model] = joined
    return [sorted(names) for model, names in group.items() if model == min(names)]


def bradley_terry(wins: Array, prior: float = PRIOR) -> Array:
    """Logarithmic strengths (samples, models), mean 0, from `wins[s, i, j]`, how often i beat j; ties are half a win for both.

    Every pair with a win in any sample is given `prior` ties. Without a prior models that never lost, or were not compared,
    have no finite strength: `DataError`.
    """
    models = wins.shape[-1]
    pairs = [(i, j) for i, j in combinations(range(models), 2) if (wins[:, i, j] + wins[:, j, i]).any()]
    design = np.zeros((len(pairs), models))
    for row, (i, j) in enumerate(pairs):
        design[row, i], design[row, j] = 1, -1
    won = np.stack([wins[:, i, j] for i, j in pairs], axis=1)
    lost = np.stack([wins[:, j, i] for i, j in pairs], axis=1)
    fitted = fit_logistic(design[:, 1:], won + prior / 2, won + lost + prior)  # the first model is held at 0
    strengths = np.concatenate([np.zeros((len(fitted), 1)), fitted], axis=1)
    return strengths - strengths.mean(axis=1, keepdims=True)


def fit_logistic(design: Array, wins: Array, totals: Array) -> Array:
    """Maximum likelihood (samples, columns) for `wins` of `totals` (samples, rows) at `design` (rows, columns): Newton's steps.

    All samples at once. Raises `DataError` where there is no finite maximum.
    """
    columns = design.shape[1]
    found = np.zeros((len(wins), columns))
    outer = (design[:, :, None] * design[:, None, :]).reshape(len(design), -1)
    for _ in range(100):
        shares = 1 / (1 + np.exp(-found @ design.T))
        slope = (wins - totals * shares) @ design
        curvature = ((totals * shares * (1 - shares)) @ outer).reshape(-1, columns, columns)
        try:
            step = np.linalg.solve(curvature, slope[:, :, None])[:, :, 0]
        except np.linalg.LinAlgError:
            break
        largest = np.abs(step).max()
        found += np.clip(step, -2, 2)
        if largest < 1e-9:
            return found
    raise DataError("The comparisons have no finite maximum of likelihood: a model always won, or was never compared.")


def _strengths(models: Sequence[str], judged: Sequence[Verdict]) -> list[dict[str, Any]]:
    """The models of one connected group, the strongest first; 95 % bootstrap intervals by prompt."""
    place = {model: i for i, model in enumerate(models)}
    chosen = [verdict for verdict in judged if verdict.first in place]
    points = np.zeros((len(chosen), len(models), len(models)))
    for row, verdict in enumerate(chosen):
        i, j, score = place[verdict.first], place[verdict.second], float(verdict.score or 0.0)
        points[row, i, j], points[row, j, i] = score, 1 - score
    drawn = Resampling([verdict.prompt for verdict in chosen])
    totals = drawn.totals(points.reshape(len(chosen), -1))
    shape = (-1, len(models), len(models))
    strengths = bradley_terry(totals.sum(axis=0).reshape(shape))[0]
    bounds = drawn.bounds(bradley_terry(drawn.sums(totals).reshape(shape)))
    order = sorted(range(len(models)), key=lambda i: -strengths[i])
    return [{"model": models[i], "strength": float(strengths[i]), "interval": bounds[i]} for i in order]


def _notes(groups: Sequence[Sequence[str]], judged: Sequence[Verdict]) -> list[str]:
    notes = []
    if len(groups) > 1:
        apart = "; ".join(", ".join(group) for group in groups)
        notes.append(f"No chain of comparisons connects these groups, and they are ranked apart: {apart}.")
    for group in groups:
        if len(group) < 3:
            continue
        lowest = _never_above(group, judged)
        others = [model for model in group if model not in lowest]
        if others:
            notes.append(
                f"{', '.join(sorted(lowest))} never won or tied against {', '.join(others)}: without the added ties the distance "
                "between them would be infinite. The order holds; the size of that distance does not."
            )
    return notes


def _never_above(group: Sequence[str], judged: Sequence[Verdict]) -> set[str]:
    """The smallest set of models none of which won or tied against one outside it; all of `group` where all are entangled."""
    reached = {model: {model} for model in group}
    for verdict in judged:
        if verdict.first in reached and verdict.score is not None:
            if verdict.score > 0:
                reached[verdict.first].add(verdict.second)
            if verdict.score < 1:
                reached[verdict.second].add(verdict.first)
    for _ in group:
        reached = {model: {far for near in nearer for far in reached[near]} for model, nearer in reached.items()}
    return min(reached.values(), key=len)
