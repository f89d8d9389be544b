"""Every pair of models on every metric: the differences, and in words what this many dialogues can show.

The family that Holm's correction is for is the whole table: all pairs on all metrics. Nothing here says which way is better.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from kosent.evaluation.statistics import (
    ALPHA,
    POWER,
    SAMPLES,
    SEED,
    TRIALS,
    Paired,
    Resampling,
    Statistic,
    holm,
    paired_means,
    paired_ratios,
    smallest_p,
)


def compare(
    scored: Mapping[str, Mapping[str, Any]],
    dialogues: Sequence[Hashable],
    *,
    straw_men: Collection[str] = (),
    functions: Mapping[str, Statistic] | None = None,
) -> dict[str, Any]:
    """Plain data for results.json from `scored[model][metric]`, one value a reply, and the dialogue of every reply.

    A pair is the later model less the earlier one, or a model less a straw man; two straw men are not compared. A metric in
    `functions` is no mean: its values are sufficient statistics (replies, columns), of whose sums the function makes a value.
    """
    functions = functions or {}
    drawn = Resampling(dialogues)
    tests = [(first, second, metric) for first, second in _pairs(list(scored), straw_men)
             for metric in scored[first] if metric in scored[second]]  # fmt: skip
    for first, second, metric in tests:
        for model in (first, second):
            if len(scored[model][metric]) != len(dialogues):
                raise ValueError(f"{metric} of {model}: {len(scored[model][metric])} values for {len(dialogues)} replies.")
    trials = max(TRIALS, 40 * len(tests))  # so that the correction leaves the smallest p at 0.025
    plain = [test for test in tests if test[2] not in functions]
    found: dict[tuple[str, str, str], Paired] = {}
    if plain:
        columns = [np.subtract(scored[a][metric], scored[b][metric], dtype=float) for a, b, metric in plain]
        found.update(zip(plain, paired_means(np.stack(columns, axis=1), drawn, trials), strict=True))
    ratios = [test for test in tests if test[2] in functions]
    if ratios:
        sums = [(scored[a][metric], scored[b][metric], functions[metric]) for a, b, metric in ratios]
        found.update(zip(ratios, paired_ratios(sums, drawn, trials), strict=True))
    tested = [test for test in tests if found[test].p is not None]
    adjusted = dict(zip(tested, holm([found[test].p or 0.0 for test in tested]), strict=True))
    return {
        "alpha": ALPHA, "power": POWER, "correction": "Holm", "tests": len(tested),
        "replies": len(dialogues), "dialogues": drawn.dialogues, "samples": SAMPLES, "trials": trials, "seed": SEED,
        "note": _note(len(scored), len(tested), drawn.dialogues, trials),
        "pairs": [_row(test, found[test], adjusted.get(test), smallest_p(drawn.dialogues, trials)) for test in tests],
    }  # fmt: skip


def _pairs(models: Sequence[str], straw_men: Collection[str]) -> Iterator[tuple[str, str]]:
    for earlier, later in combinations(models, 2):
        if earlier in straw_men and later in straw_men:
            continue
        yield (earlier, later) if later in straw_men else (later, earlier)


def _note(models: int, tests: int, dialogues: int, trials: int) -> str | None:
    if models < 2:
        return "There is one model, and nothing to compare it with."
    if dialogues < 2:
        return "All replies are of one dialogue: how far the differences hold for other dialogues cannot be told."
    if tests * smallest_p(dialogues, trials) > ALPHA:
        return (
            f"With {dialogues} dialogues and {tests} comparisons no difference can pass the correction, however clear: "
            "take more dialogues or fewer models."
        )
    return None


def _row(test: tuple[str, str, str], paired: Paired, p_holm: float | None, least: float) -> dict[str, Any]:
    """`least` is the smallest p that the test can have; `p_least`, in the row, whether it has it."""
    first, second, metric = test
    p_least = paired.p is not None and paired.p <= least * 1.000001
    return {
        "first": first, "second": second, "metric": metric,
        "difference": paired.difference, "interval": paired.interval, "p": paired.p, "p_holm": p_holm,
        "effect_size": paired.effect_size, "detectable": paired.detectable,
        "replies": paired.replies, "dialogues": paired.dialogues,
        "p_least": p_least, "words": _words(first, second, metric, paired, p_holm, p_least),
    }  # fmt: skip


def _words(first: str, second: str, metric: str, paired: Paired, p_holm: float | None, p_least: bool) -> str:
    difference, smallest, dialogues = paired.difference, paired.detectable, paired.dialogues
    if difference is None:
        return f"{metric}: no reply has a value in both {first} and {second}."
    if p_holm is None:
        return f"{metric}: one dialogue cannot tell {first} from {second}."
    if difference == 0 and smallest is None:
        return f"{metric}: {first} and {second} are equal in every dialogue."
    higher = f"{metric}: {first} is {'higher' if difference > 0 else 'lower'} than {second} by {_figure(abs(difference))}"
    if p_holm <= ALPHA:
        return f"{higher} (p {_p(p_holm, p_least)} after Holm)."
    if smallest is None or abs(difference) >= smallest:
        return f"{higher}, which is not shown to be more than chance (p {_p(p_holm, p_least)} after Holm)."
    return (
        f"{higher}, too little for {dialogues} dialogues, which show a difference of {_figure(smallest)} four times in five, "
        "before the correction. That none is shown does not mean that there is none."
    )


def _figure(number: float) -> str:
    return f"{number:.3g}"


def _p(number: float, least: bool = False) -> str:
    """`least`: as small as the test can make it."""
    return "< 0.001" if number < 0.001 else f"{'≤' if least else '='} {number:.3f}"


def markdown(comparisons: Mapping[str, Any]) -> str:
    """The section of report.md: for every pair a table, and in words what is shown and what the sample is too small for."""
    lines = ["## Comparisons", ""]
    if comparisons["note"]:
        lines += [comparisons["note"], ""]
    rows = comparisons["pairs"]
    for first, second in dict.fromkeys((row["first"], row["second"]) for row in rows):
        lines += [f"### {first} - {second}", "", "| metric | difference | p (Holm) | d_z | detectable |", "|---|---|---|---|---|"]
        chosen = [row for row in rows if (row["first"], row["second"]) == (first, second)]
        lines += [_cells(row) for row in chosen]
        lines += ["", *(f"- {row['words']}" for row in chosen), ""]
    if rows:
        lines += [
            f"Differences with 95 % intervals from {comparisons['samples']:,} bootstraps by dialogue (seed "
            f"{comparisons['seed']}). p: approximate randomisation by dialogue, two-sided, up to {comparisons['trials']:,} "
            f"swaps, with Holm's correction over all {comparisons['tests']} tests; the intervals are not corrected, so that "
            "one may leave out 0 where p does not stand. d_z: Cohen's, between dialogues, with Hedges' correction (0.2 small, "
            "0.5 medium, 0.8 large). Detectable: the difference that this many dialogues show four times in five, before Holm's "
            "correction.",
            "",
        ]
    return "\n".join(lines)


def _cells(row: Mapping[str, Any]) -> str:
    def signed(number: float | None) -> str:
        return "-" if number is None else f"{number:+.3g}"

    bounds = f" [{signed(row['interval'][0])}, {signed(row['interval'][1])}]" if row["interval"] else ""
    p = "-" if row["p_holm"] is None else _p(row["p_holm"], row["p_least"]).removeprefix("= ")
    smallest = "-" if row["detectable"] is None else _figure(row["detectable"])
    effect = "-" if row["effect_size"] is None else f"{row['effect_size']:+.2f}"
    return f"| {row['metric']} | {signed(row['difference'])}{bounds} | {p} | {effect} | {smallest} |"
