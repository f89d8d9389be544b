"""Bootstrap intervals and paired tests over dialogues: replies of one dialogue are not independent, and are drawn together.

    interval     95 % percentile interval of 1,000 seeded resamples of whole dialogues (Efron 1979; Koehn 2004)
    p            approximate randomisation: the two models' replies are swapped in random dialogues, two-sided; (c+1)/(n+1) as in
                 sacreBLEU (Noreen 1989), or exact, over every way of swapping, where there are no more than n
    Holm         step-down correction of many p values (Holm 1979)
    effect size  Cohen's d_z, the paired difference in standard deviations between dialogues, with Hedges' small-sample correction
    detectable   the difference that a paired t test of so many dialogues shows four times in five (alpha 0.05, two-sided)

A mean is over replies, so a long dialogue weighs more. The standard deviation is that of the dialogues' contributions to it
(linearised as for a ratio: Cochran 1977, 6.3); where all dialogues are of one length it is that of the dialogues' means.
A value that is NaN is not defined for its reply, and is left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kosent.errors import DataError

SAMPLES = 1000
SEED = 12345
TRIALS = 10_000
"""Random swaps of a paired test, sacreBLEU's number."""
ALPHA, POWER = 0.05, 0.8
_CHUNK = 200  # rows of a matrix of dialogues that are held as floats at once

Array = Any
"""A numpy array; its shape stands beside it."""
Statistic = Callable[[Array], Array]
"""From summed sufficient statistics (rows, columns) to a value a row, as BLEU is from matched and possible n-grams."""


@dataclass(frozen=True)
class Estimate:
    """A value over all items, and how far it is known."""

    value: float | None
    """None: no item has a value."""
    interval: tuple[float, float] | None
    """None: fewer than two dialogues, which say nothing about another."""


@dataclass(frozen=True)
class Paired:
    """The difference of two models on the same dialogues. What cannot be told is None."""

    difference: float | None
    interval: tuple[float, float] | None
    p: float | None
    effect_size: float | None
    """Hedges' g_z; None under three dialogues, for a difference that never varies, and for a ratio of sums."""
    detectable: float | None
    replies: int
    dialogues: int


def _draws(groups: int, samples: int, seed: int) -> Iterator[Array]:
    generator = np.random.default_rng(seed)
    return (generator.integers(0, groups, groups) for _ in range(samples))


def resamples(groups: Sequence[Hashable], samples: int = SAMPLES, seed: int = SEED) -> list[list[int]]:
    """`samples` lists of item indices: as many groups as there are, drawn with replacement, each with all its items."""
    members: dict[Hashable, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    items = list(members.values())
    return [[index for place in places for index in items[place]] for places in _draws(len(items), samples, seed)]


def interval(draws: Sequence[Sequence[int]], statistic: Callable[[Sequence[int]], float]) -> tuple[float, float]:
    """95 % percentile interval of `statistic`, a function of the drawn item indices."""
    low, high = np.percentile([statistic(indices) for indices in draws], [2.5, 97.5])
    return float(low), float(high)


def mean_interval(values: Sequence[float], draws: Sequence[Sequence[int]]) -> tuple[float, float]:
    """95 % percentile interval of the mean of `values`."""
    array = np.asarray(values)
    return interval(draws, lambda indices: float(array[np.asarray(indices)].mean()))


class Resampling:
    """The draws of `resamples` as a matrix: `counts[s, d]` says how often dialogue d is in resample s.

    A sum over a resample is then a product with the dialogues' sums, for any number of columns at once.
    """

    def __init__(self, groups: Sequence[Hashable], samples: int = SAMPLES, seed: int = SEED) -> None:
        if not len(groups):
            raise DataError("There is no reply to draw from.")
        places = {group: place for place, group in enumerate(dict.fromkeys(groups))}
        self.place = np.array([places[group] for group in groups])  # (items,)
        self.dialogues = len(places)
        self.counts = np.zeros((samples, self.dialogues), dtype=np.uint16)
        for row, drawn in zip(self.counts, _draws(self.dialogues, samples, seed), strict=True):
            row[:] = np.bincount(drawn, minlength=self.dialogues)

    def totals(self, values: Array) -> Array:
        """Sums by dialogue: (items, columns) -> (dialogues, columns)."""
        return np.stack([np.bincount(self.place, column, self.dialogues) for column in np.asarray(values, dtype=float).T], axis=1)

    def sums(self, totals: Array) -> Array:
        """Sums by resample: (dialogues, columns) -> (samples, columns)."""
        return np.concatenate([self.counts[i : i + _CHUNK].astype(float) @ totals for i in range(0, len(self.counts), _CHUNK)])

    def split(self, values: Array) -> tuple[Array, Array]:
        """Sums by dialogue of the values that are there, and how many: two of (dialogues, columns)."""
        array = np.asarray(values, dtype=float)
        if array.ndim != 2 or len(array) != len(self.place):
            raise ValueError(f"{len(self.place)} replies were drawn from, values of shape {array.shape} were given.")
        if np.isinf(array).any():
            raise DataError("A value is infinite, so that no mean of it exists.")
        return self.totals(np.nan_to_num(array)), self.totals(~np.isnan(array))

    def bounds(self, drawn: Array) -> list[tuple[float, float] | None]:
        """95 % percentile intervals of the columns of `drawn` (samples, columns)."""
        if self.dialogues < 2:
            return [None] * drawn.shape[1]
        here = [column[~np.isnan(column)] for column in drawn.T]
        ends = [np.percentile(column, [2.5, 97.5]).tolist() if len(column) else None for column in here]
        return [None if pair is None else (pair[0], pair[1]) for pair in ends]

    def means(self, values: Array) -> list[Estimate]:
        """The mean of every column of `values` (items, columns)."""
        sums, sizes = self.split(values)
        bounds = self.bounds(_divide(self.sums(sums), self.sums(sizes)))
        found = _divide(sums.sum(axis=0), sizes.sum(axis=0))
        several = (sizes > 0).sum(axis=0) > 1
        return [
            Estimate(_number(value), bound if enough else None)
            for value, bound, enough in zip(found, bounds, several, strict=True)
        ]

    def ratio(self, statistics: Array, function: Statistic) -> Estimate:
        """`function` of the summed `statistics` (items, columns)."""
        totals = self.totals(statistics)
        bounds = self.bounds(np.asarray(function(self.sums(totals)))[:, None])
        return Estimate(_number(function(totals.sum(axis=0, keepdims=True))[0]), bounds[0])


def paired_means(differences: Array, drawn: Resampling, trials: int = TRIALS) -> list[Paired]:
    """The mean of every column of `differences` (items, columns): first model less second, by item. Column by column one test."""
    sums, sizes = drawn.split(differences)
    means = _divide(sums.sum(axis=0), sizes.sum(axis=0))
    bounds = drawn.bounds(_divide(drawn.sums(sums), drawn.sums(sizes)))
    everything, slack = sums.sum(axis=0), 1e-9 * np.abs(sums).sum(axis=0)
    reached = np.zeros(sums.shape[1])
    for swapped in _swaps(drawn.dialogues, trials):
        reached += (np.abs(everything - 2 * (swapped @ sums)) >= np.abs(everything) - slack).sum(axis=0)
    found = []
    for column, mean in enumerate(means):
        size = sizes[:, column]
        there = int((size > 0).sum())
        if not there:
            found.append(Paired(None, None, None, None, None, 0, 0))
            continue
        deviations = (sums[:, column] - size * mean) * there / size.sum()
        spread = math.sqrt(float(deviations @ deviations) / (there - 1)) if there > 1 else 0.0
        varies = spread > 1e-9 * float(np.nanmax(np.abs(_divide(sums[:, column], size))))
        found.append(
            Paired(
                float(mean),
                bounds[column] if there > 1 else None,
                _p(reached[column], drawn.dialogues, trials) if there > 1 else None,
                hedges(there - 1) * float(mean) / spread if there > 2 and varies else None,
                detectable(spread, there) if varies else None,
                int(size.sum()),
                there,
            )
        )
    return found


def paired_ratios(pairs: Sequence[tuple[Array, Array, Statistic]], drawn: Resampling, trials: int = TRIALS) -> list[Paired]:
    """For each the function of the first model's summed statistics (items, columns), less that of the second's."""
    one = np.hstack([drawn.totals(first) for first, _, _ in pairs])
    other = np.hstack([drawn.totals(second) for _, second, _ in pairs])
    ends = np.cumsum([np.shape(first)[1] for first, _, _ in pairs])
    places = [slice(end - np.shape(first)[1], end) for end, (first, _, _) in zip(ends, pairs, strict=True)]

    def differences(these: Array, those: Array) -> Array:
        """(rows, all columns) twice -> (rows, pairs)"""
        return np.stack([f(these[:, at]) - f(those[:, at]) for at, (_, _, f) in zip(places, pairs, strict=True)], axis=1)

    all_one, all_other = one.sum(axis=0, keepdims=True), other.sum(axis=0, keepdims=True)
    observed = differences(all_one, all_other)[0]
    shifts = differences(drawn.sums(one), drawn.sums(other))
    reached = np.zeros(len(pairs))
    for swapped in _swaps(drawn.dialogues, trials):
        moved = swapped @ (other - one)
        reached += (np.abs(differences(all_one + moved, all_other - moved)) >= np.abs(observed) * (1 - 1e-9)).sum(axis=0)
    spreads = shifts.std(axis=0) * math.sqrt(drawn.dialogues)
    several, many = drawn.dialogues > 1, len(drawn.place)
    return [
        Paired(
            float(difference),
            bound,
            _p(count, drawn.dialogues, trials) if several else None,
            None,
            detectable(spread, drawn.dialogues) if several and spread > 0 else None,
            many,
            drawn.dialogues,
        )
        for difference, bound, count, spread in zip(observed, drawn.bounds(shifts), reached, spreads, strict=True)
    ]


def smallest_p(dialogues: int, trials: int = TRIALS) -> float:
    """The p value of the clearest difference that there can be."""
    return _p(2 if _exact(dialogues, trials) else 0, dialogues, trials)


def holm(values: Sequence[float]) -> list[float]:
    """Adjusted p values in the order of `values`: reject where one is at most alpha."""
    adjusted = [0.0] * len(values)
    highest = 0.0
    for rank, place in enumerate(sorted(range(len(values)), key=lambda i: values[i])):
        highest = max(highest, min(1.0, (len(values) - rank) * values[place]))
        adjusted[place] = highest
    return adjusted


def hedges(freedom: int) -> float:
    """The factor that takes the bias out of a standardised difference of so many degrees of freedom (Hedges 1981), exact."""
    return math.exp(math.lgamma(freedom / 2) - math.lgamma((freedom - 1) / 2)) / math.sqrt(freedom / 2)


def detectable(deviation: float, dialogues: int) -> float:
    """The mean difference that a paired t test shows with `POWER`, given the standard deviation between two or more dialogues."""
    from scipy.special import nctdtrinc, stdtrit

    critical = stdtrit(dialogues - 1, 1 - ALPHA / 2)
    return float(nctdtrinc(dialogues - 1, 1 - POWER, critical)) * float(deviation) / math.sqrt(dialogues)


def _exact(dialogues: int, trials: int) -> bool:
    return dialogues < trials.bit_length()


def _swaps(dialogues: int, trials: int) -> Iterator[Array]:
    """Zeros and ones (rows, dialogues), 1 where the models are swapped: every way there is, or `trials` random ones."""
    if _exact(dialogues, trials):
        yield (np.arange(2**dialogues)[:, None] >> np.arange(dialogues) & 1).astype(float)
        return
    generator = np.random.default_rng(SEED)
    for start in range(0, trials, _CHUNK):
        yield generator.integers(0, 2, (min(_CHUNK, trials - start), dialogues), dtype=np.uint8).astype(float)


def _p(reached: float, dialogues: int, trials: int) -> float:
    """From how many swaps differ at least as much as what was seen."""
    return float(reached / 2**dialogues if _exact(dialogues, trials) else (reached + 1) / (trials + 1))


def _divide(sums: Array, sizes: Array) -> Array:
    """NaN where there is nothing to divide by."""
    return np.divide(sums, sizes, out=np.full(np.shape(sums), np.nan), where=np.asarray(sizes) > 0)


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
