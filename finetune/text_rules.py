"""Rules that look at one utterance: encoding, script, repetition. `kosent.text.clean` is the rule `unicode`.

A rule returns the text to go on with, or a `Reject` that says why.
"""

from __future__ import annotations

import html
import re
from collections import Counter
from dataclasses import dataclass

from kosent.finetune.rules import CleaningSettings
from kosent.text import is_foreign, normalized

_HANGUL = re.compile(r"[가-힣]")
_ENTITY = re.compile(
    r"&(?:#\d{1,6}|#x[0-9A-Fa-f]{1,5}|amp|lt|gt|quot|apos|nbsp|hellip|middot|lsquo|rsquo|ldquo|rdquo|ndash|mdash);"
)
_LOST = re.compile("\ufffd|占쏙옙|(?:^|\\s)\\?{2,}(?:\\s+\\?{2,}){2,}")
_LATIN_1 = re.compile("[\u0080-\u00ff\u0152-\u02dc\u2018-\u2122]")
_ACCENTED = re.compile("[-ÿ]")
_HAN = re.compile("[\u3400-\u9fff\uf900-\ufaff]")
_NOT_PLAIN = re.compile("[^\x00-\x7f가-힣ㄱ-ㅣ\u2000-\u206f\u2190-\u2bff\u3000-\u3003\u3008-\u301f]")
_ASIDE = re.compile(
    r"\"[^\"]*\"|“[^”]*”|‘[^’]*’|'[^']*'|「[^」]*」|『[^』]*』|《[^》]*》|<[^>]*>|\([^)]*\)|（[^）]*）|\[[^\]]*\]"
)
_ENGLISH = re.compile(r"[A-Za-z][A-Za-z'’]*(?:[ ,.!?-]+[A-Za-z][A-Za-z'’]*)*")
_LETTERS = re.compile(r"[A-Za-z]")
_LINK = re.compile(r"https?://\S+|www\.\S+|[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+")
MIN_ENGLISH_LETTERS = 20
LONGEST_WORD = 30
_LAUGHTER = "ㅋㅎㅠㅜㅡㅇㄷㄱㅅㅂㄴ하호히흐흑크큭엉아악어오으우!?~.…^;♡♥❤"
_RUN = re.compile(r"([^\d\s])\1{3,}")
_PERIOD = re.compile(r"(.{1,40}?)\1{3,}")
_SENTENCE = re.compile(r"[.?!…\n]+")
MIN_LOOP_LETTERS = 16
SAME_SENTENCES = 3


@dataclass(frozen=True)
class Reject:
    why: str


def _mostly_hangul(text: str) -> bool:
    letters = [c for c in text if c.isalpha()]
    return bool(letters) and sum(map(bool, map(_HANGUL.match, letters))) > 0.6 * len(letters)


def _recoded(text: str, written: str, read: str) -> str | None:
    """`text` if it was written in one encoding and read in another, and comes out as Korean when that is undone."""
    try:
        undone = text.encode(read).decode(written)
    except (UnicodeEncodeError, UnicodeDecodeError):
        return None
    return undone if undone != text and _mostly_hangul(undone) else None


def fix_encoding(text: str) -> str | Reject:
    """Undoes cp949 and UTF-8 read as Latin-1 or cp949, and HTML entities."""
    if text.isascii() and "&" not in text and "?" not in text:
        return text
    if "&" in text and _ENTITY.search(text):
        text = _ENTITY.sub(lambda match: html.unescape(match.group()), text).replace("\u00a0", " ")
    if _LOST.search(text):
        return Reject("letters were lost in an earlier conversion (\ufffd, 占쏙옙 or ?? in their place)")
    if _HAN.search(text) and (undone := _recoded(text, "utf-8", "cp949")):
        return undone
    if not _LATIN_1.search(text):
        return text
    for read in ("latin-1", "cp1252"):
        undone = None if _HANGUL.search(text) else _recoded(text, "cp949", read) or _recoded(text, "utf-8", read)
        if undone:
            return undone
    import ftfy

    text = ftfy.fix_encoding(text)
    if len(_ACCENTED.findall(text)) > 0.3 * len(text) and not _HANGUL.search(text):
        return Reject("letters of another encoding, and some of them lost")
    return text


def _strange(character: str) -> bool:
    """Neither Hangul nor Latin, nor a Greek letter as in α or Δ."""
    return is_foreign(character) and not "\u0370" <= character <= "\u03ff"


def check_script(text: str, settings: CleaningSettings) -> str | Reject:
    """Rejects letters that do not belong into Korean text, judged by share and by place."""
    if _NOT_PLAIN.search(text):
        outside = _ASIDE.sub(" ", text)
        for whole, limit in ((text, settings.script_max_bracketed), (outside, settings.script_max_foreign)):
            letters = [c for c in whole if c.isalpha()]
            foreign = [c for c in letters if _strange(c)]
            if len(foreign) > limit * len(letters):
                return Reject(f"{len(foreign)} of {len(letters)} letters are foreign: {''.join(foreign)[:20]}")
        for match in re.finditer(r"[^\W\d_]+", outside):
            strange = [c for c in match.group() if _strange(c)]
            if len(strange) > 1 or any(not _HAN.match(c) for c in strange):
                return Reject(f"foreign letters in the middle of the text: {match.group()[:20]}")
    if _LETTERS.search(text):
        return _check_english(text, settings)
    return text


def _check_english(text: str, settings: CleaningSettings) -> str | Reject:
    outside = _ASIDE.sub(" \u00b7 ", _LINK.sub(" \u00b7 ", text))
    latin = len(_LETTERS.findall(outside))
    if latin >= MIN_ENGLISH_LETTERS and latin > 0.5 * sum(c.isalpha() for c in outside):
        return Reject(f"{latin} letters of the text are English")
    for match in _ENGLISH.finditer(outside):
        words = re.findall(r"[A-Za-z][A-Za-z'’]*", match.group())
        if len(words) > settings.script_max_latin_words:
            return Reject(f"{len(words)} English words in a row: {match.group()[:40]}")
        if max(map(len, words)) > LONGEST_WORD:
            return Reject(f"a word of {max(map(len, words))} Latin letters: {max(words, key=len)[:40]}")
    return text


def limit_repetition(text: str, settings: CleaningSettings) -> str | Reject:
    """Shortens runs of one character; rejects an utterance that goes round in circles."""

    def shortened(match: re.Match[str]) -> str:
        character, length = match.group(1), len(match.group())
        if character in _LAUGHTER:
            return character * min(length, settings.repetition_laughter)
        return character * 3 if length > settings.repetition_run else match.group()

    if _RUN.search(text):
        text = _RUN.sub(shortened, text)
    if len(text) < MIN_LOOP_LETTERS:
        return text
    letters = normalized(text)
    for match in _PERIOD.finditer(letters):
        unit, length = match.group(1), len(match.group())
        if length >= MIN_LOOP_LETTERS and 2 * length > len(letters) and not set(unit) <= set(_LAUGHTER) and not unit.isdigit():
            return Reject(f"{unit[:20]!r} is said {length // len(unit)} times in a row")
    if len(parts := _SENTENCE.split(text)) > SAME_SENTENCES:
        sentences = Counter(key for part in parts if len(key := normalized(part)) >= 6)
        if sentences and (most := sentences.most_common(1)[0])[1] >= SAME_SENTENCES:
            return Reject(f"the sentence {most[0][:30]!r} occurs {most[1]} times")
    words = text.split()
    trigrams = [tuple(words[i : i + 3]) for i in range(len(words) - 2)]
    if len(trigrams) >= 10 and len(set(trigrams)) < 0.6 * len(trigrams):
        return Reject(f"{len(trigrams) - len(set(trigrams))} of {len(trigrams)} runs of three words are repeats")
    return text
