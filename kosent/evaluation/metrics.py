"""All metrics of a model's replies at once. definitions.py says what they are.

    scorer = Scorer(users, references, embedder("use"))       # prepared once, for any number of models
    scorer.measure(replies, ended).values["bleu_char"]

`each` has a number a reply for every metric that is a mean, and `sums` what BLEU and chrF are functions of: what bootstraps and
paired tests (comparisons.py) need. 18,000 replies of a sentence take two minutes on two cores, a third of it the embedder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kosent.evaluation import intrinsic
from kosent.evaluation.definitions import METRICS
from kosent.evaluation.reference import References, Sums
from kosent.evaluation.words import Words


@dataclass(frozen=True)
class Measured:
    values: dict[str, float]
    """Every metric, in the order of `METRICS`."""
    each: dict[str, list[float]]
    """One number a reply, for the metrics that are means."""
    sums: dict[str, Sums]
    signatures: dict[str, str]


class Scorer:
    """Of replies to `users` (the last message before each), against `references`."""

    def __init__(
        self, users: Sequence[str], references: Sequence[str], embedder: Any, *, bertscore: Any = None, words: Words | None = None
    ) -> None:
        self._words = words or Words()
        self._users = intrinsic.Users.of(users, self._words)
        self._references = References(references, self._words, embedder, bertscore)

    def measure(self, replies: Sequence[str], ended: Sequence[bool]) -> Measured:
        compared = self._references.compare(replies)
        each = compared.each | intrinsic.of_each(replies, self._users, ended, self._words)
        values = {name: sum(numbers) / len(numbers) for name, numbers in each.items()}
        values |= {name: found.value() for name, found in compared.sums.items()}
        values |= intrinsic.of_the_set(replies, self._words)
        return Measured(
            {name: values[name] for name in METRICS if name in values},
            {name: each[name] for name in METRICS if name in each},
            compared.sums,
            compared.signatures,
        )
