"""Verdicts, win rates, length control and Bradley-Terry strengths: published values, worked examples, other solvers."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize

from kosent.errors import DataError
from kosent.evaluation.ranking import Vote, bradley_terry, fit_logistic, length_controlled, rank, verdicts, wilson

# 1987 season of the American League's Eastern Division: Agresti, Categorical Data Analysis (2002), tables 10.10 and 10.11
TEAMS = ["Milwaukee", "Detroit", "Toronto", "New York", "Boston", "Cleveland", "Baltimore"]
WINS = np.array([
    [0, 7, 9, 7, 7, 9, 11], [6, 0, 7, 5, 11, 9, 9], [4, 6, 0, 7, 7, 8, 12], [6, 8, 6, 0, 6, 7, 10],
    [6, 2, 6, 7, 0, 7, 12], [4, 4, 5, 6, 6, 0, 6], [2, 4, 1, 3, 1, 7, 0],
], dtype=float)  # fmt: skip
PUBLISHED = [1.58, 1.44, 1.29, 1.25, 1.11, 0.68, 0.0]


def votes(first: str, second: str, outcomes: str, start: int = 0) -> list[Vote]:
    """Both orders of a prompt a letter: 1 or 2 wins, = tie in both, x the one shown first, e an error and a win of `first`."""
    shown = {"1": ("a", "b"), "2": ("b", "a"), "=": ("tie", "tie"), "x": ("a", "a"), "e": ("a", "error")}
    found = []
    for prompt, letter in enumerate(outcomes, start):
        one, other = shown[letter]
        found += [Vote(prompt, first, second, one), Vote(prompt, second, first, other)]  # type: ignore[arg-type]
    return found


def strengths(ranking: dict[str, Any], group: int = 0) -> dict[str, float]:
    return {row["model"]: row["strength"] for row in ranking["strengths"][group]}


def test_two_orders_make_one_verdict_and_their_disagreement_a_tie() -> None:
    found = verdicts([*votes("m", "k", "12=xe"), Vote(9, "m", "k", "a"), Vote(10, "m", "k", "a"), Vote(10, "k", "m", "tie")])
    assert {(verdict.first, verdict.second) for verdict in found} == {("k", "m")}
    assert [verdict.score for verdict in found] == [0, 1, 0.5, 0.5, None, 0, 0.5]
    assert [verdict.flipped for verdict in found] == [False, False, False, True, False, False, True]
    assert [verdict.both_orders for verdict in found] == [True] * 4 + [False, False, True]


def test_rates_counted_by_hand() -> None:
    found = rank(votes("a", "b", "111=xxe2"))
    assert found["votes"] == 16 and found["error_rate"] == 1 / 16
    assert found["flip_rate"] == 2 / 7
    assert found["first_shown_wins"] == (4 + 2 + 2 + 1) / 13
    pair = found["pairs"][0]
    assert [pair[key] for key in ("first", "second", "prompts", "wins", "ties", "losses", "errors")] == ["a", "b", 7, 3, 3, 1, 1]
    assert pair["win_rate"] == pytest.approx(4.5 / 7)
    assert pair["interval"] == pytest.approx(wilson(4.5 / 7, 7))
    assert found["strengths"] == [] and found["notes"] == []


def test_a_prompt_counts_once_however_many_people_judge_it() -> None:
    people = [Vote(1, "a", "b", "a", judge=str(person)) for person in range(8)]
    pair = rank([*people, Vote(2, "a", "b", "b")])["pairs"][0]
    assert (pair["prompts"], pair["wins"], pair["win_rate"]) == (2, 8, 0.5)


@pytest.mark.parametrize(
    ("wins", "count", "expected"),
    [(81, 263, (0.2553, 0.3662)), (15, 148, (0.0624, 0.1605)), (0, 20, (0.0, 0.1611)), (1, 29, (0.0061, 0.1718))],
)
def test_wilson_intervals_of_newcombe_1998(wins: int, count: int, expected: tuple[float, float]) -> None:
    assert wilson(wins / count, count) == pytest.approx(expected, abs=5e-5)
    assert wilson(1 - wins / count, count) == pytest.approx((1 - expected[1], 1 - expected[0]), abs=5e-5)


def test_bradley_terry_on_the_published_baseball_season() -> None:
    found = bradley_terry(WINS[None], prior=0)[0]
    assert (found - found[-1]).round(2).tolist() == PUBLISHED
    assert found.mean() == pytest.approx(0)
    shares = 1 / (1 + np.exp(found[None] - found[:, None]))  # of i against j
    np.fill_diagonal(shares, 0)
    assert (shares * (WINS + WINS.T)).sum(axis=1) == pytest.approx(WINS.sum(axis=1))  # the likelihood's own condition


def minorize(wins: Any) -> Any:
    """Hunter's (2004) algorithm, another way to the same maximum."""
    games, power = wins + wins.T, np.ones(len(wins))
    for _ in range(2000):
        power = wins.sum(axis=1) / (games / (power[:, None] + power[None])).sum(axis=1)
        power /= np.exp(np.log(power).mean())
    return np.log(power)


def test_newton_and_the_minorizing_algorithm_agree_also_for_many_samples_at_once() -> None:
    generator = np.random.default_rng(1)
    samples = generator.integers(1, 9, (20, 5, 5)).astype(float) * (1 - np.eye(5))
    assert bradley_terry(samples, prior=0) == pytest.approx(np.stack([minorize(wins) for wins in samples]), abs=1e-6)
    tied = samples + 0.5 * (1 - np.eye(5))
    assert bradley_terry(samples) == pytest.approx(bradley_terry(tied, prior=0), abs=1e-9)


def test_no_finite_strength_without_the_added_ties() -> None:
    always, apart = np.zeros((1, 3, 3)), np.zeros((1, 4, 4))
    always[0, 0, 1] = always[0, 1, 2] = always[0, 0, 2] = 200
    apart[0, 0, 1] = apart[0, 1, 0] = apart[0, 2, 3] = apart[0, 3, 2] = 1
    for wins in (always, apart):
        with pytest.raises(DataError, match="no finite maximum"):
            bradley_terry(wins, prior=0)
    found = bradley_terry(always)[0]
    assert found[0] > found[1] + 1 > found[2] + 2 and np.isfinite(found).all()
    assert bradley_terry(np.array([[[0.0, 3.0], [0.0, 0.0]]]))[0].tolist() == pytest.approx([np.log(7) / 2, -np.log(7) / 2])


def season(seed: int, prompts: int = 200) -> list[Vote]:
    """Four models of strengths 0, 0.5, 1, 1.5; all pairs at every prompt, whose mood moves all of its verdicts."""
    generator, found = np.random.default_rng(seed), []
    for prompt in range(prompts):
        quality = np.arange(4) / 2 + generator.gumbel(size=4)
        found += [
            Vote(prompt, f"m{i}", f"m{j}", "a" if quality[i] > quality[j] else "b") for i in range(4) for j in range(4) if i != j
        ]
    return found


def test_a_ranking_of_four_models_with_intervals() -> None:
    found = rank(season(2))
    assert found == rank(season(2))
    rows = found["strengths"][0]
    assert [row["model"] for row in rows] == ["m3", "m2", "m1", "m0"]
    assert sum(row["strength"] for row in rows) == pytest.approx(0)
    for row, truth in zip(rows, (0.75, 0.25, -0.25, -0.75), strict=True):
        assert row["interval"][0] < row["strength"] < row["interval"][1]
        assert row["interval"][0] < truth < row["interval"][1]
    assert json.loads(json.dumps(found, allow_nan=False)) == json.loads(json.dumps(found))


def test_intervals_are_by_prompt_not_by_vote() -> None:
    """Ten people who all say the same add nothing."""
    once = season(3, 20)
    often = [replace(vote, judge=str(person)) for vote in once for person in range(10)]
    for one, other in zip(rank(once)["strengths"][0], rank(often)["strengths"][0], strict=True):
        assert other["interval"][1] - other["interval"][0] > 0.9 * (one["interval"][1] - one["interval"][0])


def test_models_that_were_never_compared_are_ranked_apart() -> None:
    chain = [*votes("a", "b", "112"), *votes("b", "c", "1=2"), *votes("x", "y", "12"), *votes("lost", "a", "eee")]
    found = rank(chain)
    assert [set(strengths(found, group)) for group in range(len(found["strengths"]))] == [{"a", "b", "c"}]
    assert found["notes"] == ["No chain of comparisons connects these groups, and they are ranked apart: a, b, c; lost; x, y."]
    lost = next(pair for pair in found["pairs"] if pair["second"] == "lost")
    assert (lost["win_rate"], lost["interval"], lost["errors"], lost["prompts"]) == (None, None, 3, 0)


def test_a_model_that_always_loses_is_last_at_a_finite_distance_and_named() -> None:
    found = rank([*votes("a", "b", "1122"), *votes("a", "c", "1111"), *votes("b", "c", "1111")])
    place = strengths(found)
    assert list(place)[2] == "c" and place["a"] == pytest.approx(place["b"])
    assert all(np.isfinite(row["interval"]).all() for row in found["strengths"][0])
    assert len(found["notes"]) == 1 and found["notes"][0].startswith("c never won or tied against a, b:")
    tied = rank([*votes("a", "b", "1122"), *votes("a", "c", "1111"), *votes("b", "c", "111x")])
    assert tied["notes"] == []
    above = rank([*votes("a", "b", "1111"), *votes("a", "c", "1111"), *votes("b", "c", "12")])
    assert above["notes"][0].startswith("b, c never won or tied against a:")


def biased(preference: float, quality: float, seed: int = 4, count: int = 300) -> list[Vote]:
    """`a` writes longer replies; a judge goes by `quality` and by length."""
    generator = np.random.default_rng(seed)
    lengths = generator.normal(60, 60, count).round().astype(int)
    chance = 1 / (1 + np.exp(-quality - preference * np.tanh(lengths / lengths.std())))
    return [
        Vote(prompt, "a", "b", "a" if generator.random() < p else "b", 200 + int(length), 200)
        for prompt, (p, length) in enumerate(zip(chance, lengths, strict=True))
    ]


def test_length_control_takes_out_what_only_length_won() -> None:
    pair = rank(biased(preference=2.0, quality=0.0))["pairs"][0]
    controlled = pair["length_controlled"]
    assert pair["win_rate"] > 0.68
    assert controlled["win_rate"] == pytest.approx(0.5, abs=0.08)
    assert controlled["interval"][0] < 0.5 < controlled["interval"][1]
    better = rank(biased(preference=0.0, quality=1.0))["pairs"][0]
    assert better["length_controlled"]["win_rate"] == pytest.approx(1 / (1 + np.exp(-1)), abs=0.08)
    assert better["length_controlled"]["note"] is None


def test_length_control_is_the_maximum_another_solver_finds_and_mirrors() -> None:
    judged = verdicts(biased(1.0, 0.5, count=40))
    lengths = np.array([verdict.longer for verdict in judged], dtype=float)
    scores = np.array([verdict.score for verdict in judged])
    shift = np.tanh(lengths / lengths.std())

    def loss(line: Any) -> float:
        ends = np.logaddexp(0, line[0] + line[1]) + np.logaddexp(0, line[0] - line[1])  # one tie, half at either end
        return float(
            (np.logaddexp(0, line[0] + line[1] * shift) - scores * (line[0] + line[1] * shift)).sum() + ends / 2 - line[0] / 2
        )

    theirs = minimize(loss, [0.0, 0.0], tol=1e-12).x
    ours = length_controlled(judged)
    assert ours["win_rate"] == pytest.approx(1 / (1 + np.exp(-theirs[0])), abs=1e-5)
    mirrored = [replace(v, score=1 - (v.score or 0), longer=-(v.longer or 0)) for v in judged]
    assert length_controlled(mirrored)["win_rate"] == pytest.approx(1 - ours["win_rate"])


def test_length_control_stays_finite_where_length_decides_all_and_says_what_it_cannot_tell() -> None:
    longest = [Vote(prompt, "a", "b", "a" if prompt % 2 else "b", 100 + 50 * (-1) ** (prompt + 1), 100) for prompt in range(40)]
    assert rank(longest)["pairs"][0]["length_controlled"]["win_rate"] == pytest.approx(0.5, abs=0.01)
    won = [replace(vote, outcome="a") for vote in longest]
    assert 0.9 < rank(won)["pairs"][0]["length_controlled"]["win_rate"] < 1
    always = [Vote(prompt, "a", "b", "a", 200 + prompt, 100) for prompt in range(10)]
    assert "extrapolated" in rank(always)["pairs"][0]["length_controlled"]["note"]
    same = [Vote(prompt, "a", "b", "a", 150, 100) for prompt in range(10)]
    assert rank(same)["pairs"][0]["length_controlled"] == {
        "win_rate": None, "interval": None, "note": "The length differs by the same everywhere: its effect cannot be told.",
    }  # fmt: skip
    assert "lengths" in rank(votes("a", "b", "11"))["pairs"][0]["length_controlled"]["note"]


def test_lengths_follow_the_model_not_the_order() -> None:
    one, other = Vote(1, "z", "a", "a", 10, 30), Vote(1, "a", "z", "b", 30, 10)
    for given in ([one], [other], [one, other], [other, one]):
        (verdict,) = verdicts(given)
        assert (verdict.first, verdict.score, verdict.longer) == ("a", 0, 20)


def test_a_single_prompt_gives_no_interval_of_strengths() -> None:
    found = rank([*votes("a", "b", "1"), *votes("b", "c", "1"), *votes("a", "c", "x")])
    assert [row["interval"] for row in found["strengths"][0]] == [None] * 3
    assert list(strengths(found)) == ["a", "b", "c"]


def test_fitting_many_samples_is_fitting_each() -> None:
    generator = np.random.default_rng(5)
    design, totals = generator.normal(size=(30, 3)), generator.integers(1, 5, (8, 30)).astype(float)
    wins = totals * generator.random((8, 30))
    together = fit_logistic(design, wins, totals)
    assert together == pytest.approx(np.concatenate([fit_logistic(design, wins[[i]], totals[[i]]) for i in range(8)]))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([], "no vote"),
        ([Vote(1, "a", "a", "a")], "a is compared with itself"),
        ([Vote(1, "a", "b", "c")], "'c', not a, b, tie or error"),  # type: ignore[arg-type]
        ([Vote(1, "a", "b", "a"), Vote(1, "a", "b", "b")], "two votes of one judge on a before b"),
    ],
)
def test_votes_that_cannot_be_are_refused(given: list[Vote], words: str) -> None:
    with pytest.raises(DataError, match=words):
        rank(given)
