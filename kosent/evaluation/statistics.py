"""Bootstrap intervals over dialogues: replies of one dialogue are drawn together, because they are not independent."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

SAMPLES = 1000
SEED = 12345


def resamples(groups: Sequence[int], samples: int = SAMPLES, seed: int = SEED) -> list[list[int]]:
    """`samples` lists of item indices: as many groups as there are, drawn with replacement, each with all its items."""
    members: dict[int, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    keys = list(members)
    generator = np.random.default_rng(seed)
    return [
        [index for place in generator.integers(0, len(keys), len(keys)) for index in members[keys[place]]] for _ in range(samples)
    ]


def interval(draws: Sequence[Sequence[int]], statistic: Callable[[Sequence[int]], float]) -> tuple[float, float]:
    """95 % percentile interval of `statistic`, a function of the drawn item indices."""
    low, high = np.percentile([statistic(indices) for indices in draws], [2.5, 97.5])
    return float(low), float(high)


def mean_interval(values: Sequence[float], draws: Sequence[Sequence[int]]) -> tuple[float, float]:
    """95 % percentile interval of the mean of `values`."""
    array = np.asarray(values)
    return interval(draws, lambda indices: float(array[np.asarray(indices)].mean()))
