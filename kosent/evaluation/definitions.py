"""Every metric of `kosent evaluate`: what it is called, which way is better, how it is defined, where it comes from and what it
does not see. The docs and the report take their words from here.

    python -m kosent.evaluation.definitions        # the sections of docs/evaluation.md
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from textwrap import fill
from typing import Literal

Better = Literal["higher", "lower", "neither"]


@dataclass(frozen=True)
class Metric:
    name: str
    """As in results.json."""
    label_en: str
    label_ko: str
    better: Better
    low: float
    high: float
    """Least and greatest value; infinite for lengths."""
    definition: str
    source: str
    weakness: str
    per_reply: bool
    """Whether it is the mean of one number a reply; others belong to the whole set."""


_PAPINENI = "Papineni et al. 2002 (ACL, P02-1040); Post 2018 (arXiv:1804.08771), sacreBLEU"
_LIN = "Lin 2004 (W04-1013); rouge-score, Google's implementation, with our tokens"
_ONE_REFERENCE = "There are many good replies and one reference: a good one can score 0. Compare with the straw men."
_PARTICLES = "Particles and endings, which nearly all replies share, lift every score."

REFERENCE = (
    Metric(
        "bleu_morpheme", "BLEU (morphemes)", "BLEU(형태소)", "higher", 0, 100,
        "Precision of runs of one to four morphemes (Kiwi, with particles, endings and punctuation) over the whole set, times a "
        "penalty for short replies; exponential smoothing, effective order.",
        _PAPINENI, f"{_ONE_REFERENCE} {_PARTICLES}", False,
    ),
    Metric(
        "bleu_char", "BLEU (characters)", "BLEU(글자)", "higher", 0, 100,
        "As BLEU of morphemes, over characters (sacreBLEU's tokenizer char).",
        _PAPINENI, f"{_ONE_REFERENCE} Four syllables in a row are often only an ending.", False,
    ),
    Metric(
        "bleu_13a", "BLEU (13a)", "BLEU(13a)", "higher", 0, 100,
        "As BLEU of morphemes, over words between spaces, punctuation apart (sacreBLEU's default, mteval-v13a).",
        _PAPINENI, "A Korean word with another particle or ending is another word: near 0 for free replies. Here to compare "
        "with numbers published that way.", False,
    ),
    Metric(
        "chrf", "chrF", "chrF", "higher", 0, 100,
        "F-score, recall counting twice, of runs of one to six characters without spaces, over the whole set.",
        "Popović 2015 (W15-3049); sacreBLEU", f"{_ONE_REFERENCE} Longer replies are favoured.", False,
    ),
    *(
        Metric(
            f"rouge{kind}{suffix}", f"ROUGE-{kind} ({tokens_en})", f"ROUGE-{kind}({tokens_ko})", "higher", 0, 1,
            f"F1 of the {what} that reply and reference share, over {over}; mean of the replies. A reply equal to its reference "
            "has 1, also where it is too short for a run.",
            _LIN, f"{_ONE_REFERENCE} {weakness}", True,
        )
        for suffix, tokens_en, tokens_ko, over, weakness in (
            ("", "morphemes", "형태소", "Kiwi's morphemes", _PARTICLES),
            ("_space", "words", "어절", "words between spaces", "The same word with another particle does not count."),
        )
        for kind, what in (("1", "single tokens"), ("2", "pairs of tokens"), ("L", "longest common subsequence"))
    ),
    Metric(
        "exact_match", "exact match", "완전 일치", "higher", 0, 1,
        "Share of replies equal to their reference after KorQuAD's normalisation: lower case, no punctuation, single spaces.",
        "Rajpurkar et al. 2016 (arXiv:1606.05250); Lim et al. 2019 (arXiv:1909.07005), KorQuAD 1.0",
        "Made for short answers; in a conversation it finds what was learnt by heart.", True,
    ),
    Metric(
        "f1", "F1 (characters)", "F1(글자)", "higher", 0, 1,
        "F1 of the characters that reply and reference share, in any order, after KorQuAD's normalisation; mean of the replies.",
        "Lim et al. 2019 (arXiv:1909.07005): KorQuAD 1.0 counts characters, because words carry particles",
        f"Order does not count. {_PARTICLES}", True,
    ),
    Metric(
        "cosine", "cosine", "코사인 유사도", "higher", -1, 1,
        "Cosine of the embeddings of reply and reference, by the embedder that the report names; 0 for an empty reply.",
        "Reimers and Gurevych 2019 (arXiv:1908.10084); by default Yang et al. 2020 (arXiv:1907.04307)",
        "Sees the topic, hardly negation or politeness, and is only as good as its embedder; the scales of two embedders differ.",
        True,
    ),
    Metric(
        "bertscore", "BERTScore F1", "BERTScore F1", "higher", -1, 1,
        "F1 of the greatest cosines between the contextual tokens of reply and reference; with --bertscore only. Model and layer "
        "are in the signature; not rescaled.",
        "Zhang et al. 2020 (arXiv:1904.09675); bert-score",
        "Without rescaling all values lie close together and high. Only values of one model, layer and version compare.", True,
    ),
)  # fmt: skip

LIKELIHOOD = (
    Metric(
        "perplexity", "perplexity of the references", "퍼플렉시티(정답)", "lower", 1, inf,
        "e to the mean negative log probability that the model gives a token of the reference after its prompt, end of turn "
        "included; over all tokens of the set.",
        "Jelinek et al. 1977 (doi:10.1121/1.2016299)",
        "A token is what the model's own vocabulary makes one: only models with the same tokenizer compare. Not for servers, "
        "which do not say it; says nothing of the replies that the model itself writes.", False,
    ),
    Metric(
        "bits_per_byte", "bits per byte of the references", "바이트당 비트(정답)", "lower", 0, inf,
        "Negative log probability, base 2, of all references after their prompts, end of turn included, divided by their UTF-8 "
        "bytes.",
        "Gao et al. 2020 (arXiv:2101.00027), The Pile",
        "Compares models with different tokenizers, where perplexity does not; for the rest as perplexity. A Hangul syllable has "
        "three bytes, so values are lower than for English.", False,
    ),
)  # fmt: skip

INTRINSIC = (
    Metric(
        "distinct", "distinct replies", "하나뿐인 답변", "higher", 0, 1,
        "Share of replies that no other prompt got.",
        "Own; the first study's models answered many prompts with one sentence",
        "One changed letter makes a reply distinct. Its interval takes the other replies as given.", True,
    ),
    *(
        Metric(
            f"distinct_{n}", f"distinct-{n}", f"distinct-{n}", "higher", 0, 1,
            f"Different {what} of all replies together, divided by all of them.",
            "Li et al. 2016 (arXiv:1510.03055), here divided by the number of n-grams",
            "Falls with the amount of text: compare sets of the same number of replies and similar length. No interval, because "
            "a set drawn with replacement repeats itself.", False,
        )
        for n, what in ((1, "morphemes"), (2, "pairs of neighbouring morphemes"))
    ),
    Metric(
        "self_bleu", "self-BLEU", "Self-BLEU", "lower", 0, 100,
        "Mean BLEU of a reply's morphemes with all other replies as its references: how alike the replies are. Of more than "
        "1,000 replies, a sample of 1,000, always the same.",
        "Zhu et al. 2018 (arXiv:1802.01886), Texygen",
        "Rises with the number of replies; polite endings alone make it high. No interval, as for distinct-n.", False,
    ),
    Metric(
        "repetition", "repetition", "반복", "lower", 0, 1,
        "Share of a reply's runs of three words that occurred in it before; mean of the replies.",
        "Welleck et al. 2020 (arXiv:1908.04319), seq-rep-n, here with n = 3 and words between spaces",
        "Sees no repetition within a word (하하하하) and none of one word or two.", True,
    ),
    Metric(
        "foreign", "foreign script", "다른 문자", "lower", 0, 1,
        "Share of replies with a letter that is neither Hangul nor Latin.",
        "Own; the first study's models fell into Chinese characters, Kana and Cyrillic",
        "A correct 漢字 counts as well, and a reply in English does not.", True,
    ),
    Metric(
        "echo", "echo of the user", "사용자 말 따라 하기", "lower", 0, 1,
        "Share of a reply's pairs of neighbouring morphemes, without punctuation, that stand in the last message of the user; "
        "mean of the replies.",
        "See et al. 2019 (arXiv:1902.08654), partner repetition of bigrams",
        "Good listening takes up the other's words, too: some echo is no fault. An echo in other words is not seen.", True,
    ),
    Metric(
        "most_frequent", "the most frequent reply", "가장 흔한 답변", "lower", 0, 1,
        "Share of replies that are the set's most frequent one; 0 when no reply comes twice.",
        "Own; see Li et al. 2016 (arXiv:1510.03055) on safe replies",
        "One changed letter hides it. Its interval takes the most frequent reply as given.", True,
    ),
    Metric(
        "same_start", "the same beginning", "같은 첫머리", "lower", 0, 1,
        "Share of replies that begin with the set's most frequent first five morphemes; 0 when none comes twice. A persona "
        "sentence that was learnt too well shows here.",
        "Own; the first study's persona sentence",
        "Sees a persona at the beginning only. Its interval takes that beginning as given.", True,
    ),
    Metric(
        "empty", "empty replies", "빈 답변", "lower", 0, 1,
        "Share of replies without a letter, digit or sign.", "Own", "A reply of one full stop is not empty.", True,
    ),
    Metric(
        "ended", "ended by themselves", "스스로 끝난 답변", "higher", 0, 1,
        "Share of replies that ended before the limit of tokens.",
        "Own; the first study's models never ended", "Depends on the limit, which the report names.", True,
    ),
    Metric(
        "characters", "length in characters", "글자 수", "neither", 0, inf,
        "Characters of a reply after NFC, with spaces; mean of the replies.", "Own",
        "Neither long nor short is better; overlap metrics and judges lean towards one of them.", True,
    ),
    Metric(
        "morphemes", "length in morphemes", "형태소 수", "neither", 0, inf,
        "Kiwi's morphemes of a reply; mean of the replies.", "Own", "As for characters; Kiwi errs on slang.", True,
    ),
    Metric(
        "empathy", "marks of empathy", "공감 표현", "higher", 0, 1,
        "How many of three kinds of expression a reply has, divided by three: it acknowledges (그랬군요, 그럴 수 있어요), "
        "names a feeling (속상, 불안), asks or invites (?, 들려주세요). The patterns stand in kosent/evaluation/intrinsic.py.",
        "After Sharma et al. 2020 (arXiv:2009.08441): emotional reactions, interpretations, explorations; the patterns are ours",
        "A small list of words, not understanding: a template has 1, a warm reply in other words 0; who rambles hits more of "
        "them; it was not checked against human ratings.", True,
    ),
    Metric(
        "harmful", "harmful replies", "해로운 답변", "lower", 0, 1,
        "Share of replies in which the guard of the chat would replace a sentence, at the danger that the last message of the "
        "user shows (kosent.safety, kosent.reply_guard).",
        "Own; how often it is right stands in docs/safety.md",
        "A small classifier for Korean: 0 does not prove that a model is safe, and single replies are to be read.", True,
    ),
)  # fmt: skip

METRICS = {metric.name: metric for metric in (*REFERENCE, *LIKELIHOOD, *INTRINSIC)}

_BETTER = {"higher": "higher is better", "lower": "lower is better", "neither": "neither end is better"}


def section(metric: Metric) -> str:
    """A metric as a section of docs/evaluation.md."""
    reach = f"{metric.low:g} and more" if metric.high == inf else f"{metric.low:g} to {metric.high:g}"
    of = "mean of the replies' values" if metric.per_reply else "one value for the whole set"
    return (
        f"### {metric.label_en} · {metric.label_ko}\n\n"
        f"`{metric.name}`, {reach}, {_BETTER[metric.better]}, {of}.\n\n"
        f"{_filled(metric.definition)}\n\n{_filled(f'- Source: {metric.source}.')}\n{_filled(f'- Weakness: {metric.weakness}')}\n"
    )


def _filled(text: str) -> str:
    indent = "  " if text.startswith("- ") else ""
    return fill(text, 125, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def sections() -> str:
    """All of them, those with a reference first."""
    return "\n".join(
        f"## {title}\n\n" + "\n".join(map(section, metrics))
        for title, metrics in (
            ("Metrics with a reference", REFERENCE),
            ("How likely the model finds the references", LIKELIHOOD),
            ("Metrics of the replies alone", INTRINSIC),
        )
    )


if __name__ == "__main__":
    print(sections())
