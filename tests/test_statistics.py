"""Intervals, paired tests, effect sizes and what a sample can show: published values, worked examples, and scipy's own."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from sacrebleu.metrics.bleu import BLEU
from scipy import stats

from kosent.errors import DataError
from kosent.evaluation.comparisons import compare, markdown
from kosent.evaluation.statistics import (
    Resampling,
    detectable,
    hedges,
    holm,
    interval,
    mean_interval,
    paired_means,
    paired_ratios,
    resamples,
    smallest_p,
)

LENGTHS = [1, 4, 2, 7, 3, 1, 5, 2]
GROUPS = [f"d{place}" for place, length in enumerate(LENGTHS) for _ in range(length)]
# two movies rated by ten people: Lakens (2013), table 1
MOVIE_1, MOVIE_2 = [9, 7, 8, 9, 8, 9, 9, 10, 9, 9], [9, 6, 7, 8, 7, 9, 8, 8, 8, 7]


def values(seed: int, columns: int = 1) -> Any:
    return np.random.default_rng(seed).normal(0.3, 1.0, (len(GROUPS), columns))


def column(*numbers: float) -> Any:
    return np.array(numbers, dtype=float)[:, None]


def test_the_matrix_of_counts_holds_the_same_draws_as_the_lists() -> None:
    draws, drawn = resamples(GROUPS), Resampling(GROUPS)
    assert drawn.counts.sum(axis=1).tolist() == [len(LENGTHS)] * 1000
    for indices, counts in zip(draws, drawn.counts, strict=True):
        assert np.bincount(indices, minlength=len(GROUPS)).tolist() == counts[drawn.place].tolist()
    several = values(1, 3)
    for place, estimate in enumerate(drawn.means(several)):
        assert estimate.value == pytest.approx(several[:, place].mean())
        assert estimate.interval == pytest.approx(mean_interval(several[:, place], draws))


def test_intervals_are_those_of_scipy() -> None:
    drawn, numbers = Resampling(GROUPS, samples=10_000), values(2)
    sums, sizes = drawn.totals(numbers)[:, 0], np.array(LENGTHS)
    theirs = stats.bootstrap(
        (sums, sizes), lambda s, n, axis: s.sum(axis) / n.sum(axis), paired=True, vectorized=True, axis=0, n_resamples=10_000,
        method="percentile", rng=np.random.default_rng(3),
    ).confidence_interval  # fmt: skip
    ours = drawn.means(numbers)[0].interval
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.03 * (theirs.high - theirs.low))


def test_bleu_from_summed_statistics_is_corpus_bleu_of_every_resample() -> None:
    metric = BLEU(tokenize="char", effective_order=False)
    words = ["오늘", "정말", "속상하셨겠어요", "많이", "힘드셨죠", "괜찮아요", "무슨", "일이", "있었나요"]
    picker = np.random.default_rng(4)
    replies = [" ".join(picker.choice(words, 5)) for _ in GROUPS]
    references = [" ".join(picker.choice(words, 5)) for _ in GROUPS]

    def bleu(summed: Any) -> Any:
        return np.array([
            metric.compute_bleu(row[2:6].tolist(), row[6:].tolist(), int(row[0]), int(row[1]), smooth_method="exp").score
            for row in summed.round().astype(int)
        ])  # fmt: skip

    each = np.array(metric._extract_corpus_statistics(replies, [references]))
    estimate = Resampling(GROUPS, samples=50).ratio(each, bleu)
    slow = interval(
        resamples(GROUPS, samples=50),
        lambda chosen: metric.corpus_score([replies[i] for i in chosen], [[references[i] for i in chosen]]).score,
    )
    assert estimate.value == pytest.approx(metric.corpus_score(replies, [references]).score)
    assert estimate.interval == pytest.approx(slow)


def covered(groups: list[int], by: list[int], seed: int) -> float:
    """How often of 200 the interval over `by` holds the true mean 0, where dialogues differ more than the replies in them."""
    generator, drawn, hits = np.random.default_rng(seed), Resampling(by, seed=seed), 0
    for _ in range(200):
        moods = generator.normal(0, 1, max(groups) + 1)
        low, high = drawn.means((moods[groups] + generator.normal(0, 0.5, len(groups)))[:, None])[0].interval or (0.0, 0.0)
        hits += low <= 0 <= high
    return hits / 200


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    lengths = np.random.default_rng(5).integers(1, 7, 60)
    groups = [dialogue for dialogue, length in enumerate(lengths) for _ in range(length)]
    assert 0.90 <= covered(groups, groups, 6) <= 0.98
    assert covered(groups, list(range(len(groups))), 6) < 0.85  # replies drawn one by one would promise too much


def test_a_published_paired_comparison() -> None:
    movies = np.subtract(MOVIE_1, MOVIE_2, dtype=float)[:, None]
    paired = paired_means(movies, Resampling(range(10)))[0]
    assert paired.difference == pytest.approx(1.0)
    assert paired.effect_size == pytest.approx(1.50 * hedges(9))
    assert hedges(9) == pytest.approx(1 - 3 / (4 * 9 - 1), abs=5e-4)  # the usual approximation
    assert paired.p == 2 / 2**8  # eight people differ, all the same way
    assert (paired.replies, paired.dialogues) == (10, 10)


@pytest.mark.parametrize(("effect", "needed"), [(0.2, 199), (0.5, 34), (0.8, 15)])
def test_what_can_be_shown_is_what_g_power_says(effect: float, needed: int) -> None:
    assert detectable(1.0, needed) <= effect < detectable(1.0, needed - 1)


def test_the_paired_spread_is_that_of_the_mean_over_replies() -> None:
    """Of equal lengths the textbook's, of unequal ones what the bootstrap finds."""
    generator = np.random.default_rng(7)
    equal = generator.normal(0.2, 1, (40, 3))
    paired = paired_means(equal.reshape(-1, 1), Resampling(np.repeat(range(40), 3).tolist()))[0]
    means = equal.mean(axis=1)
    assert paired.effect_size == pytest.approx(hedges(39) * means.mean() / means.std(ddof=1))
    assert paired.detectable == pytest.approx(detectable(means.std(ddof=1), 40))
    groups = np.repeat(range(300), generator.integers(1, 9, 300)).tolist()
    unequal = (generator.normal(0, 1, 300)[groups] + generator.normal(0, 1, len(groups)))[:, None]
    drawn = Resampling(groups)
    error = (drawn.sums(drawn.totals(unequal))[:, 0] / drawn.sums(drawn.totals(np.ones_like(unequal)))[:, 0]).std()
    assert paired_means(unequal, drawn)[0].detectable == pytest.approx(detectable(error * 300**0.5, 300), rel=0.1)


def permuted(differences: Any, trials: float) -> float:
    result = stats.permutation_test(
        (differences,), lambda d, axis: d.sum(axis), permutation_type="samples", vectorized=True, n_resamples=trials,
        rng=np.random.default_rng(8),
    )  # fmt: skip
    return float(result.pvalue)


def test_p_is_that_of_scipy() -> None:
    drawn, several = Resampling(GROUPS), values(9, 6)
    totals = drawn.totals(several)
    for place, paired in enumerate(paired_means(several, drawn)):
        assert paired.p == pytest.approx(permuted(totals[:, place], np.inf))
    many = np.random.default_rng(10).normal(0.4, 1, 50)
    paired = paired_means(many[:, None], Resampling(range(50)))[0]
    assert 0.01 < (paired.p or 0) < 0.2
    assert paired.p == pytest.approx(permuted(many, 9999), abs=0.015)


def test_p_of_a_ratio_is_that_of_scipy_and_of_means_where_it_is_one() -> None:
    drawn = Resampling(GROUPS)
    one, other = values(11), values(12)
    sized = [np.hstack([numbers, np.ones_like(numbers)]) for numbers in (one, other)]

    def mean(summed: Any) -> Any:
        return summed[:, 0] / summed[:, 1]

    plain, ratio = paired_means(one - other, drawn)[0], paired_ratios([(*sized, mean)], drawn)[0]
    assert (ratio.difference, ratio.p) == pytest.approx((plain.difference, plain.p))
    assert ratio.interval == pytest.approx(plain.interval)
    uneven = [np.abs(values(seed, 2)) + 0.1 for seed in (13, 14)]
    totals = [drawn.totals(numbers) for numbers in uneven]
    theirs = stats.permutation_test(
        (np.arange(8.0), np.arange(8.0) + 8),
        lambda x, y: float(mean(np.concatenate(totals)[np.int64(x)].sum(0, keepdims=True))[0]
                           - mean(np.concatenate(totals)[np.int64(y)].sum(0, keepdims=True))[0]),
        permutation_type="samples", vectorized=False, n_resamples=np.inf,
    )  # fmt: skip
    assert paired_ratios([(*sized, mean), (*uneven, mean)], drawn)[1].p == pytest.approx(theirs.pvalue)


def test_the_random_p_counts_what_was_seen_as_one_of_the_trials() -> None:
    clear = paired_means(np.full((30, 1), 1.0) + values(15)[:1] * 0, Resampling(range(30)), trials=999)[0]
    assert clear.p == smallest_p(30, 999) == 1 / 1000
    assert smallest_p(5) == 2 / 2**5


def test_holm_on_a_worked_example() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def test_what_is_not_there_is_left_out_and_what_cannot_be_told_is_none() -> None:
    nan = float("nan")
    drawn = Resampling([0, 0, 1, 2, 3])
    holes, empty, single, same = drawn.means(np.stack([[1, nan, 2, 3, nan], [nan] * 5, [1, 5, nan, nan, nan], [0.5] * 5], axis=1))
    assert holes.value == 2.0 and holes.interval is not None and 1 <= holes.interval[0] <= holes.interval[1] <= 3
    assert (empty.value, empty.interval) == (None, None)
    assert (single.value, single.interval) == (3.0, None)
    assert (same.value, same.interval) == (0.5, (0.5, 0.5))
    missing = paired_means(column(1, nan, 2, 3, nan), drawn)[0]
    assert (missing.difference, missing.replies, missing.dialogues) == (2.0, 3, 3)
    constant = paired_means(column(*[0.25] * 5), drawn)[0]
    assert (constant.effect_size, constant.detectable, constant.difference) == (None, None, 0.25)
    alone = paired_means(column(1, 2), Resampling(["a", "a"]))[0]
    assert (alone.difference, alone.interval, alone.p, alone.detectable) == (1.5, None, None, None)
    with pytest.raises(DataError, match="infinite"):
        drawn.means(column(1, 2, 3, 4, float("inf")))
    with pytest.raises(DataError, match="no reply"):
        Resampling([])
    with pytest.raises(ValueError, match="5 replies"):
        drawn.means(column(1, 2))


def scored(dialogues: int = 60) -> tuple[dict[str, dict[str, Any]], list[int]]:
    """Three models and a straw man: tuned is clearly higher than base in a, hardly in b; again is tuned."""
    generator = np.random.default_rng(16)
    groups = np.repeat(range(dialogues), 2).tolist()
    base = {metric: generator.normal(0.5, 0.2, len(groups)) for metric in "ab"}
    tuned = {"a": base["a"] + generator.normal(0.2, 0.2, len(groups)), "b": base["b"] + generator.normal(0.01, 0.2, len(groups))}
    return {"base": base, "tuned": tuned, "again": tuned, "straw": base, "hay": tuned}, groups


def test_every_pair_on_every_metric_in_numbers_and_words() -> None:
    found = compare(*scored(), straw_men=("straw", "hay"))
    assert [(row["first"], row["second"]) for row in found["pairs"][::2]] == [
        ("tuned", "base"), ("again", "base"), ("base", "straw"), ("base", "hay"),
        ("again", "tuned"), ("tuned", "straw"), ("tuned", "hay"), ("again", "straw"), ("again", "hay"),
    ]  # fmt: skip
    assert [row["p_holm"] for row in found["pairs"]] == holm([row["p"] for row in found["pairs"]])
    assert found["note"] is None and found["tests"] == 18
    clear, slight = found["pairs"][:2]
    assert clear["words"] == f"a: tuned is higher than base by {clear['difference']:.3g} (p ≤ {clear['p_holm']:.3f} after Holm)."
    assert clear["p_least"] and not slight["p_least"]
    assert clear["p_holm"] < 0.05 < slight["p_holm"] and abs(slight["difference"]) < slight["detectable"]
    assert "too little for 60 dialogues" in slight["words"]
    assert f"show a difference of {slight['detectable']:.3g} four times in five" in slight["words"]
    again = next(row for row in found["pairs"] if row["first"] == "again" and row["second"] == "tuned")
    assert again["words"] == "a: again and tuned are equal in every dialogue." and again["p"] == 1.0
    assert json.loads(json.dumps(found, allow_nan=False))["pairs"][0]["p"] == clear["p"]
    page = markdown(found)
    assert "### tuned - base" in page and f"- {slight['words']}" in page
    assert page.count("| metric |") == 9 and "all 18 tests" in page


def test_a_ratio_of_sums_is_compared_with_the_means() -> None:
    models, groups = scored()
    both = {name: {"a": row["a"], "rate": np.stack([row["a"], np.ones(len(groups))], axis=1)} for name, row in models.items()}
    rows = compare(both, groups, functions={"rate": lambda summed: summed[:, 0] / summed[:, 1]})["pairs"]
    assert rows[1]["metric"] == "rate"
    assert [rows[1][key] for key in ("difference", "p", "detectable")] == pytest.approx(
        [rows[0][key] for key in ("difference", "p", "detectable")], rel=0.1
    )


def test_more_comparisons_are_given_more_trials_so_that_a_clear_one_passes_the_correction() -> None:
    numbers = np.random.default_rng(17).normal(0, 0.01, (2, 40))
    clear = {"a": numbers[0] + 1, "b": numbers[1]}
    models = {f"m{i}": {f"{metric}{j}": clear[metric] * i for metric in "ab" for j in range(12)} for i in range(8)}
    found = compare(models, range(40))
    assert found["tests"] == 672 and found["trials"] == 26_880
    assert max(row["p_holm"] for row in found["pairs"] if row["metric"][0] == "a") < 0.05
    assert min(row["p_holm"] for row in found["pairs"] if row["metric"][0] == "b") > 0.05


def test_samples_too_small_for_any_answer_say_so() -> None:
    assert "no difference can pass" in compare(*scored(5))["note"]
    one = compare({"x": {"a": [1.0, 2.0]}, "y": {"a": [2.0, 2.0]}}, ["d", "d"])
    assert "one dialogue" in one["note"] and one["pairs"][0]["words"] == "a: one dialogue cannot tell y from x."
    lonely = compare({"x": {"a": [1.0]}}, ["d"])
    assert lonely["pairs"] == [] and "one model" in markdown(lonely)
    nothing = compare({"x": {"a": [float("nan")] * 2}, "y": {"a": [1.0, 2.0]}}, [0, 1])
    assert nothing["pairs"][0]["words"] == "a: no reply has a value in both y and x." and nothing["tests"] == 0
    assert "| a | - | - | - | - |" in markdown(nothing)
    with pytest.raises(ValueError, match="a of y: 1 values for 2 replies"):
        compare({"x": {"a": [1.0, 2.0]}, "y": {"a": [1.0]}}, [0, 1])
    with pytest.raises(DataError, match="no reply"):
        compare({"x": {"a": []}, "y": {"a": []}}, [])
