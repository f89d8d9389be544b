"""The rule `repetition`: shortens runs of one character and rejects an utterance that goes round in circles."""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise

from kosent.finetune.rules import CleaningSettings
from kosent.finetune.text_rules import LINK, Reject
from kosent.text import normalized

_LAUGHTER = "ㅋㅎㅠㅜㅡㅇㄷㄱㅅㅂㄴ하호히흐흑크큭엉아악어오으우!?~.…^;♡♥❤\ufe0f"
_RUN = re.compile(r"([^\d\s])\1{3,}")
_ELONGATED = re.compile(r"([^\d\s])\1{2,}")
_LIST_NUMBER = re.compile(r"(?<!\S)\d{1,3}[.)](?=\s)")
# the shorter the unit, the more often people say it on purpose: 하나둘하나둘, 보고 싶어 보고 싶어 보고 싶어
_PERIOD = re.compile(r"(.{1,3}?)\1{7,}|(.{4,7}?)\2{3,}|(.{8,40}?)\3{2,}")
_DIGITS = re.compile(r"(\d{1,4}?)\1{5,}")
_EMOJI = re.compile(r"([^\w\s\x00-\x7f]{2,8}?)\1{15,}")  # =-=-=- is a line between two parts
_SENTENCE = re.compile(r"(?<=[.?!…])\s+|\n")
_ENDED = re.compile(r"[.?!…][\"'”’)]*$")
SHORTEST_LOOP = 12
"""Characters below which nothing is looked for: eight words of one letter, one of them lost."""
MIN_LOOP_LETTERS = 16
TAIL_LETTERS = 5
MANY_TIMES = 6
MAX_DIGITS = 20
SAME_SENTENCES = 3
FEWEST_REPEATS = 6
"""Pairs of characters that occur again in the smallest loop; most utterances have fewer and are done."""
LOOKED_AT = 20_000
"""Characters in which repeats are looked for, from the end, where a model gets stuck: each may begin one of 40 units."""


def limit_repetition(text: str, settings: CleaningSettings) -> str | Reject:
    """Shortens runs of one character; rejects an utterance that goes round in circles."""

    def shortened(match: re.Match[str]) -> str:
        character, length = match.group(1), len(match.group())
        if character in _LAUGHTER:
            return character * min(length, settings.repetition_laughter)
        return character * 3 if length > settings.repetition_run else match.group()

    if _RUN.search(text):
        text = _RUN.sub(shortened, text)
    if len(text) < SHORTEST_LOOP:
        return text
    end = text[-LOOKED_AT:]
    if len(end) - 1 - len(set(pairwise(end))) < FEWEST_REPEATS:
        return text
    return _loop(end) or _same_sentence(end) or _same_words(end) or text


def _loop(text: str) -> Reject | None:
    """Something said over and over: over half of the text, up to its end or very often."""
    for pattern in (_DIGITS, _EMOJI):
        for match in pattern.finditer(text):
            unit, length = match.group(1), len(match.group())
            if length > MAX_DIGITS and 2 * length > len(text) and not set(unit) <= set(_LAUGHTER):
                return Reject(f"{unit!r} is repeated over {length} characters")
    # 와아아아아 is one letter drawn out, and the numbers of a list make its items no different
    letters = normalized(_LIST_NUMBER.sub(" ", _ELONGATED.sub(r"\1", text)))
    for match in _PERIOD.finditer(letters):
        unit, length = match[match.lastindex or 0], len(match.group())
        if set(unit) <= set(_LAUGHTER) or unit.isdigit():
            continue
        times, stuck = length // len(unit), len(letters) - match.end() <= TAIL_LETTERS
        if 2 * length > len(letters) or (length >= MIN_LOOP_LETTERS and (stuck or times >= MANY_TIMES)):
            return Reject(f"{unit[:20]!r} is said {times} times in a row")
    return None


def _same_sentence(text: str) -> Reject | None:
    """A sentence that is much of the text. A line without a full stop is an item of a list, such as the day a shop is closed."""
    parts = _SENTENCE.split(LINK.sub(" ", text))
    if len(parts) < SAME_SENTENCES:
        return None
    sentences = Counter(key for part in parts if _ENDED.search(part) and len(key := normalized(part)) >= 6)
    for sentence, count in sentences.most_common(1):
        if count >= SAME_SENTENCES and count * len(sentence) >= 0.3 * len(normalized(text)):
            return Reject(f"the sentence {sentence[:30]!r} occurs {count} times")
    return None


def _same_words(text: str) -> Reject | None:
    words = text.split()
    trigrams = [tuple(words[i : i + 3]) for i in range(len(words) - 2)]
    if len(trigrams) >= 10 and len(set(trigrams)) < 0.6 * len(trigrams):
        return Reject(f"{len(trigrams) - len(set(trigrams))} of {len(trigrams)} runs of three words are repeats")
    return None
