"""Counts for the report, gathered row by row in bounded memory."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeVar

from kosent.finetune.rules import RULES
from kosent.personal import mask_personal
from kosent.text import is_foreign, normalized

BINS = (0, 5, 10, 20, 40, 80, 160, 320)
"""Lower ends of the bins of lengths; the last is open."""
EXAMPLES = 5
SHOWN = 300
MAX_COUNTED = 100_000
TOP = 12
_HANGUL = re.compile(r"[가-힣ㄱ-ㆎᄀ-ᇿ]")
_LATIN = re.compile(r"[A-Za-z\u00c0-\u024f]")
_OTHER = re.compile(
    "[^\x00-\x7f가-힣ㄱ-ㆎ\u2000-\u206f\u2190-\u2bff\u3000-\u301f\ufe00-\ufe0f\uff00-\uff20\U0001f000-\U0001faff]"
)
_SENTENCE = re.compile(r"[.?!…]+(?=\s|$)|\n")
PLACEHOLDER = re.compile("<(?:주민등록번호|전화번호|이메일|카드번호|계좌번호|주소)>")
_SCRIPTS = (("Han", "CJK"), ("Kana", "HIRAGANA"), ("Kana", "KATAKANA"), ("Cyrillic", "CYRILLIC"), ("Greek", "GREEK"))


class FrequentTexts:
    """The most frequent texts of a stream by lossy counting (Manku & Motwani 2002): a count may be too low, never too high."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def add(self, text: str) -> None:
        self._counts[text[:SHOWN]] += 1
        if len(self._counts) > MAX_COUNTED:
            self._counts = Counter({text: count - 1 for text, count in self._counts.items() if count > 1})

    def top(self) -> list[dict[str, Any]]:
        best = sorted(self._counts.items(), key=lambda item: (-item[1], item[0]))[:TOP]
        return [{"text": mask_personal(text), "count": count} for text, count in best if count > 1]


class Side:
    """What is counted of the rows before cleaning, or of those after it."""

    def __init__(self, opening_letters: int) -> None:
        self.opening_letters = opening_letters
        self.lengths = {"user": [0] * len(BINS), "reply": [0] * len(BINS)}
        self.letters: Counter[str] = Counter()
        self.emotions: Counter[str] = Counter()
        self.ages: Counter[str] = Counter()
        self.replies, self.openings = FrequentTexts(), FrequentTexts()

    def add(self, turns: Iterable[tuple[str, str]], lengths: Sequence[int], meta: dict[str, Any]) -> None:
        for (role, text), length in zip(turns, lengths, strict=True):
            if role == "system":
                continue
            self.lengths["user" if role == "user" else "reply"][bisect_right(BINS, length) - 1] += 1
            _count_letters(text, self.letters)
            if role == "assistant":
                self.replies.add(text)
                self.openings.add(opening(text, self.opening_letters))
        for name, counter in (("감정_대분류", self.emotions), ("연령", self.ages)):
            if meta.get(name):
                counter[str(meta[name])] += 1


class Examples:
    """How often each rule acted, and its first few cases, with personal data masked."""

    def __init__(self) -> None:
        self.counts: dict[str, Counter[str]] = {rule: Counter() for rule in RULES}
        self.cases: dict[str, list[dict[str, Any]]] = {rule: [] for rule in RULES}

    def add(self, rule: str, action: str, source: str, row: int, before: str, after: str | None, why: str) -> None:
        self.counts[rule][action] += 1
        if len(self.cases[rule]) < EXAMPLES:
            if rule == "personal" and after is not None:
                before = PLACEHOLDER.sub("•••", after)  # where it was, not what it was
            case = {"source": source, "row": row, "action": action, "why": mask_personal(why)}
            self.cases[rule].append(
                case | {"before": mask_personal(shown(before)), "after": None if after is None else mask_personal(shown(after))}
            )


def shown(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


@lru_cache(maxsize=8)
def _beginning(letters: int) -> re.Pattern[str]:
    return re.compile(rf"(?:[\W_]*[^\W_]){{{letters}}}")


def opening(reply: str, letters: int) -> str:
    """The beginning of a reply up to its first `letters` letters or digits, as it is written."""
    found = _beginning(letters).match(reply)
    return found.group() if found else reply


def opening_key(reply: str, letters: int) -> str:
    """What makes two openings the same; empty for a reply that is no longer than an opening."""
    key = normalized(reply)
    return key[:letters] if len(key) > letters else ""


def closing_key(reply: str, letters: int) -> str:
    """What makes two last sentences the same; empty where there is but one sentence, or the last is too short."""
    sentences = [key for part in _SENTENCE.split(reply) if (key := normalized(part))]
    return sentences[-1] if len(sentences) > 1 and len(sentences[-1]) >= letters else ""


def _count_letters(text: str, counter: Counter[str]) -> None:
    counter["Hangul"] += len(text) - len(_HANGUL.sub("", text))
    if latin := len(_LATIN.findall(text)):
        counter["Latin"] += latin
    for character in _OTHER.findall(text):
        if is_foreign(character):
            counter[_script_of(character)] += 1


def _script_of(character: str) -> str:
    import unicodedata

    name = unicodedata.name(character, "")
    return next((script for script, start in _SCRIPTS if name.startswith(start)), "other")


def contradicting(replies: Sequence[str]) -> bool:
    """Whether two answers to one question say the opposite, guessed from their form: one denies more than the other.

    Both must share a third of their letter pairs. A hint for a person, never a reason to leave a row out.
    """
    sides = [(denials(reply), _pairs(reply)) for reply in replies]
    return any(
        one[0] != other[0] and len(one[1] & other[1]) * 3 >= len(one[1] | other[1])
        for place, one in enumerate(sides)
        for other in sides[:place]
    )


def denials(reply: str) -> int:
    """How often a reply says no, by its words."""
    return len(_DENIAL.findall(reply))


_DENIAL = re.compile(r"(?:^|\s)(?:안|못|아니|아뇨)|지\s?(?:마|말|않|못)|없|아니|싫")


def _pairs(reply: str) -> set[str]:
    letters = normalized(reply)
    return {letters[i : i + 2] for i in range(len(letters) - 1)}


Name = TypeVar("Name")


def shares(counts: Mapping[Name, int]) -> dict[Name, float]:
    """Counts as percentages of their sum."""
    total = sum(counts.values())
    return {name: 100 * count / total for name, count in counts.items()} if total else {}
