"""What a set of replies is measured by.

    bleu_char    corpus BLEU of characters, 0-100: sacreBLEU, tokenize="char", exponential smoothing (Papineni 2002; Post 2018)
    chrf         corpus chrF2, 0-100: sacreBLEU (Popović 2015)
    cosine       mean cosine of reply and reference, -1 to 1, by the named embedder
    distinct     share of replies that no other prompt got, 0 to 1
    repetition   mean share of a reply's word trigrams that occurred in it before, 0 to 1
    foreign      share of replies with a letter that is neither Hangul nor Latin, 0 to 1
    ended        share of replies that ended by themselves before the length limit, 0 to 1

Overlap with one reference says little about a single reply: there are many good ones. Compare with the straw men.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence

from kosent.text import is_foreign


def _nfc(texts: Sequence[str]) -> list[str]:
    return [unicodedata.normalize("NFC", text) for text in texts]


def bleu_char(replies: Sequence[str], references: Sequence[str]) -> tuple[float, str]:
    """Corpus BLEU over characters and sacreBLEU's signature."""
    from sacrebleu.metrics.bleu import BLEU

    metric = BLEU(tokenize="char", smooth_method="exp")
    score = metric.corpus_score(_nfc(replies), [_nfc(references)]).score
    return float(score), str(metric.get_signature())


def chrf(replies: Sequence[str], references: Sequence[str]) -> tuple[float, str]:
    """Corpus chrF2 and sacreBLEU's signature."""
    from sacrebleu.metrics.chrf import CHRF

    metric = CHRF()
    score = metric.corpus_score(_nfc(replies), [_nfc(references)]).score
    return float(score), str(metric.get_signature())


def distinct(replies: Sequence[str]) -> float:
    counts = Counter(" ".join(reply.split()) for reply in replies)
    return sum(count == 1 for count in (counts[" ".join(reply.split())] for reply in replies)) / len(replies)


def repetition(reply: str) -> float:
    """Share of the word trigrams of `reply` that are repeats; 0 for fewer than four words."""
    words = reply.split()
    trigrams = [tuple(words[i : i + 3]) for i in range(len(words) - 2)]
    return 1 - len(set(trigrams)) / len(trigrams) if len(trigrams) > 1 else 0.0


def has_foreign(reply: str) -> bool:
    return any(map(is_foreign, reply))
