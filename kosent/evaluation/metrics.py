"""All metrics of a model's replies at once. definitions.py says what they are.

    scorer = Scorer(users, references, embedder("use"))       # prepared once, for any number of models
    scorer.measure(replies, ended).values["bleu_char"]

`each` has a number a reply for every metric that is a mean, and `sums` what BLEU and chrF are functions of: what bootstraps and
paired tests (comparisons.py) need. 18,000 replies of a sentence take two minutes on two cores, a third of it the embedder.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kosent.evaluation import intrinsic
from kosent.evaluation.definitions import METRICS
from kosent.evaluation.reference import Compared, References, Sums
from kosent.evaluation.words import Words, nfc


@dataclass(frozen=True)
class Measured:
    values: dict[str, float]
    """Every metric, in the order of `METRICS`."""
    each: dict[str, list[float]]
    """One number a reply, for the metrics that are means."""
    sums: dict[str, Sums]
    signatures: dict[str, str]


class Scorer:
    """Of replies to `users` (the last message before each), against `references`; without them, of the replies alone."""

    def __init__(
        self,
        users: Sequence[str],
        references: Sequence[str] | None,
        embedder: Any,
        *,
        bertscore: Any = None,
        words: Words | None = None,
    ) -> None:
        self._words = words or Words()
        self._users = intrinsic.Users.of(users, self._words)
        self._bytes = [len(text.encode()) for text in nfc(references or ())]
        self._references = None if references is None else References(references, self._words, embedder, bertscore)

    def measure(
        self, replies: Sequence[str], ended: Sequence[bool], likelihoods: Sequence[tuple[float, int]] | None = None
    ) -> Measured:
        """`likelihoods`: for each reference the sum of its tokens' log probabilities and their number, where they are known."""
        compared = self._references.compare(replies) if self._references else Compared({}, {}, {})
        each = compared.each | intrinsic.of_each(replies, self._users, ended, self._words)
        sums = compared.sums | (_likelihood(likelihoods, self._bytes) if likelihoods else {})
        values = {name: sum(numbers) / len(numbers) for name, numbers in each.items()}
        values |= {name: found.value() for name, found in sums.items()}
        values |= intrinsic.of_the_set(replies, self._words)
        return Measured(
            {name: values[name] for name in METRICS if name in values},
            {name: each[name] for name in METRICS if name in each},
            sums,
            compared.signatures,
        )


def _likelihood(likelihoods: Sequence[tuple[float, int]], sizes: Sequence[int]) -> dict[str, Sums]:
    import numpy as np

    rows = np.array(
        [(nats, tokens, size if tokens else 0) for (nats, tokens), size in zip(likelihoods, sizes, strict=True)], dtype=float
    )
    return {
        "perplexity": Sums(
            rows, lambda sums: math.exp(min(-sums[0] / max(sums[1], 1), 700)), "natural logarithm, end of turn included"
        ),
        "bits_per_byte": Sums(rows, lambda sums: -sums[0] / math.log(2) / max(sums[2], 1), "UTF-8, NFC, end of turn included"),
    }
