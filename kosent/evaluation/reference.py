"""Replies against what was really answered: BLEU, chrF, ROUGE, exact match, F1, cosine, BERTScore (definitions.py says how).

BLEU and chrF of a set are functions of sums over its replies; `Sums` keeps the summands, so that a bootstrap adds up rows instead
of counting n-grams again. They and their scores are sacreBLEU's; ROUGE is rouge-score's, which takes a tokenizer of one's own
(rouge-metric and rouge do not, and split Korean at spaces). An empty reply has 0 everywhere.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from kosent.evaluation.words import Words, nfc, unit_vectors

_QUOTES = re.compile(r"""['"《》<>〈〉()‘’]""")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True)
class Sums:
    """A metric that is a function of sums over replies: BLEU, chrF, perplexity."""

    rows: Any
    """Numbers [replies, summands], numpy: the sufficient statistics."""
    score: Callable[[Sequence[float]], float]
    """From the summands' sums to the metric."""
    signature: str
    """Tokenizer, smoothing, version: what sacreBLEU calls so."""

    def function(self, sums: Any) -> Any:
        """The metric of each row of `sums` [any, summands], numpy."""
        import numpy as np

        return np.array([self.score(row) for row in sums.tolist()])

    def value(self, chosen: Any = None) -> float:
        """Of all replies, or of those at the indices `chosen` (with repetition)."""
        rows = self.rows if chosen is None else self.rows[chosen]
        return self.score(rows.sum(axis=0).tolist())

    def each(self) -> list[float]:
        """Of every reply alone."""
        return [self.score(row) for row in self.rows.tolist()]


@dataclass(frozen=True)
class Compared:
    each: dict[str, list[float]]
    """One number a reply."""
    sums: dict[str, Sums]
    signatures: dict[str, str]


class References:
    """What the replies are compared with, prepared once for any number of models.

    `embedder` is one of kosent.embedders; `bertscore` a `BertScore` or None.
    """

    def __init__(self, references: Sequence[str], words: Words, embedder: Any, bertscore: Any = None) -> None:
        from rouge_score.rouge_scorer import RougeScorer
        from sacrebleu.metrics.bleu import BLEU
        from sacrebleu.metrics.chrf import CHRF

        self._references = nfc(references)
        self._words, self._embedder, self._bertscore = words, embedder, bertscore
        self._vectors = unit_vectors(self._references, embedder)
        # by the effective order a reply of less than four tokens that equals its reference has 100
        options: dict[str, Any] = {"smooth_method": "exp", "effective_order": True}
        self._metrics: dict[str, Any] = {
            "bleu_morpheme": BLEU(tokenize="none", force=True, references=[self._spaced(self._references)], **options),
            "bleu_char": BLEU(tokenize="char", references=[self._references], **options),
            "bleu_13a": BLEU(tokenize="13a", references=[self._references], **options),
            "chrf": CHRF(references=[self._references]),
        }
        kinds = ["rouge1", "rouge2", "rougeL"]
        self._rouge = {"": RougeScorer(kinds, tokenizer=_Tokens(words)), "_space": RougeScorer(kinds, tokenizer=_Spaces())}

    def compare(self, replies: Sequence[str]) -> Compared:
        """One reply for each reference."""
        replies = nfc(replies)
        pairs = list(zip(replies, self._references, strict=True))
        self._words(replies)
        each: dict[str, list[float]] = {
            "exact_match": [exact_match(*pair) for pair in pairs],
            "f1": [f1(*pair) for pair in pairs],
            "cosine": self._cosines(replies),
        }
        for suffix, scorer in self._rouge.items():
            for kind, values in rouge(scorer, pairs).items():
                each[f"{kind}{suffix}"] = values
        sums = {name: self._sums(name, replies) for name in self._metrics}
        signatures = {name: found.signature for name, found in sums.items()}
        if self._bertscore is not None:
            each["bertscore"] = self._bertscore.f1(replies, self._references)
            signatures["bertscore"] = self._bertscore.signature
        return Compared(each, sums, signatures)

    def _spaced(self, texts: Sequence[str]) -> list[str]:
        return [" ".join(tokens) for tokens in self._words(texts)]

    def _sums(self, name: str, replies: Sequence[str]) -> Sums:
        import numpy as np

        metric = self._metrics[name]
        texts = self._spaced(replies) if name == "bleu_morpheme" else replies
        rows = np.array(metric._extract_corpus_statistics(texts, None), dtype=np.int64)
        signature = str(metric.get_signature())
        if name == "bleu_morpheme":
            import kiwipiepy

            signature = signature.replace("tok:none", f"tok:kiwi-{kiwipiepy.__version__}")
        return Sums(rows, lambda sums: float(metric._compute_score_from_stats(sums).score), signature)

    def _cosines(self, replies: Sequence[str]) -> list[float]:
        found = (unit_vectors(replies, self._embedder) * self._vectors).sum(axis=1).clip(-1, 1)
        return [float(value) if reply else 0.0 for value, reply in zip(found, replies, strict=True)]


class _Tokens:
    def __init__(self, words: Words) -> None:
        self._words = words

    def tokenize(self, text: str) -> list[str]:
        return self._words([text])[0]


class _Spaces:
    def tokenize(self, text: str) -> list[str]:
        return text.split()


def rouge(scorer: Any, pairs: Sequence[tuple[str, str]]) -> dict[str, list[float]]:
    """F1 of ROUGE-1, -2 and -L of each (reply, reference)."""
    found: dict[str, list[float]] = {kind: [] for kind in scorer.rouge_types}
    for reply, reference in pairs:
        scores = scorer.score(reference, reply)
        for kind, values in found.items():
            values.append(1.0 if reply and reply == reference else float(scores[kind].fmeasure))
    return found


def normalized_answer(text: str) -> str:
    """KorQuAD's normalisation: quotation marks and brackets as spaces, no other punctuation, single spaces, lower case."""
    return " ".join(_QUOTES.sub(" ", text).translate(_PUNCTUATION).lower().split())


def exact_match(reply: str, reference: str) -> float:
    """Of two signs without a letter (?, !) the signs themselves are compared."""
    one, other = normalized_answer(reply), normalized_answer(reference)
    return float(bool(reply) and (one == other if one or other else reply == reference))


def f1(reply: str, reference: str) -> float:
    """Of characters without spaces, as KorQuAD counts them."""
    one, other = (Counter(normalized_answer(text).replace(" ", "")) for text in (reply, reference))
    if not one or not other:
        return exact_match(reply, reference)
    return 2 * (one & other).total() / (one.total() + other.total())
