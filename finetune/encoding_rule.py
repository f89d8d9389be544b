"""The rule `encoding`: undoes what a conversion did to a text, and rejects what cannot be undone."""

from __future__ import annotations

import html
import re
from functools import cache
from html.entities import html5
from urllib.parse import unquote

from kosent.finetune.text_rules import HANGUL, HANGUL_OR_JAMO, LINK, Reject

_ENTITY = re.compile(r"&(?:#\d{1,6};|#x[0-9A-Fa-f]{1,5};|nbsp(?:;|(?![A-Za-z0-9;]))|[A-Za-z][A-Za-z0-9]{1,30};)")
_ESCAPED = re.compile(r"\\u[0-9A-Fa-f]{4}(?:[ .,!?~]*\\u[0-9A-Fa-f]{4})+")
_PERCENT = re.compile(rf"(?P<link>{LINK.pattern})|(?:%[0-9A-Fa-f]{{2}}){{3,}}")
_LOST = re.compile("\ufffd|占쏙옙")
_LATIN_1 = re.compile("[\u0080-\u00ff\u0152-\u02dc\u2018-\u2122]")
_UPPER_HALF = re.compile("[\u0080-\u00ff]")
_ACCENTED = re.compile("[À-ÖØ-öø-ÿ]")
_ACCENTED_RUN = re.compile("[\u00a1-\u00ff\u0152-\u0178]{4,}")
_HAN = re.compile("[\u3400-\u9fff\uf900-\ufaff]")
_QUESTION_MARKS = re.compile(r"\?{2,}")
_LOST_BEFORE = re.compile(r"\?(?=[가-힣])")
VOWEL_YAE, FINALS_TYPED = 3, (20, 24, 27)
ROUNDS = 3
"""How often a text may have been escaped or encoded one time too many."""
SLANG = frozenset("뷁뭥햏뙇똠믜펲찦괞쓔읭뀽믱됭쥥핡됌햣쀠졋왤렜밨")
"""Slang, dishes and common misspellings among the syllables outside KS X 1001."""


@cache
def rare_syllables() -> frozenset[str]:
    """Syllables outside KS X 1001: in Korean all but slang, in UTF-8 read as cp949 every other one.

    ㅋ and ㅎ under a syllable (엌, 핳) are laughter, ㅆ under one (됬) and ㅒ in one (떄) slips of the Shift key.
    Python writes what is outside as eight bytes instead of failing.
    """
    rare = set()
    for number in range(11172):
        vowel, final = number // 28 % 21, number % 28
        syllable = chr(ord("가") + number)
        if len(syllable.encode("euc-kr")) > 2 and vowel != VOWEL_YAE and final not in FINALS_TYPED and syllable not in SLANG:
            rare.add(syllable)
    return frozenset(rare)


def _mostly_hangul(text: str) -> bool:
    letters = [c for c in text if c.isalpha()]
    return bool(letters) and sum(map(bool, map(HANGUL.match, letters))) > 0.6 * len(letters)


def _recoded(text: str, written: str, read: str) -> str | None:
    """`text` if it was written in one encoding and read in another, after that is undone."""
    try:
        undone = text.encode(read).decode(written)
    except (UnicodeEncodeError, UnicodeDecodeError):
        return None
    return undone if undone != text else None


def _unescaped(match: re.Match[str]) -> str:
    name = match.group()[1:]
    if name.startswith("#"):
        return html.unescape(match.group())
    return html5.get(name if name.endswith(";") else f"{name};", match.group())


def _from_escapes(match: re.Match[str]) -> str:
    """Korean from `\\uc548\\ub155`; anything else, such as a range in a regular expression, stays."""
    try:
        decoded = match.group().encode("ascii").decode("unicode_escape").encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError:
        return match.group()
    return decoded if _mostly_hangul(decoded) else match.group()


def _from_percent(match: re.Match[str]) -> str:
    """Korean from `%EC%95%88`; in a link it is how the link is written."""
    decoded = match.group() if match["link"] else unquote(match.group(), errors="replace")
    return decoded if "\ufffd" not in decoded and _mostly_hangul(decoded) else match.group()


def _read_as_latin(text: str) -> str | None:
    """The Korean that was read as Latin-1 or Windows-1252, once or several times.

    UTF-8 comes first: as cp949 it often decodes too, into rubbish, while cp949 is hardly ever UTF-8.
    """
    for read in ("latin-1", "cp1252"):
        undone = text
        for _ in range(ROUNDS):
            undone = _recoded(undone, "utf-8", read) or undone
        if not _mostly_hangul(undone):
            undone = _recoded(undone, "cp949", read) or ""
        if _mostly_hangul(undone):
            return undone
    return None


def _only_question_marks(text: str) -> bool:
    """Whether a conversion left ? in place of every letter: "????? ????". One "???" is a puzzled user."""
    visible = len("".join(text.split()))
    groups = len(_QUESTION_MARKS.findall(text))
    return groups >= 2 and text.count("?") >= 0.6 * visible and not HANGUL_OR_JAMO.search(text)


def _read_as_cp949(text: str) -> bool:
    """Whether `text` is UTF-8 that was read as cp949: rare syllables, and a ? where a pair of bytes made none."""
    rare = [c for c in text if c in rare_syllables()]
    if not rare:
        return False
    syllables = len(HANGUL.findall(text))
    lost = len(rare) + len(_LOST_BEFORE.findall(text))
    return (len(set(rare)) >= 2 and len(rare) > 0.15 * syllables) or (lost >= 3 and lost > 0.3 * syllables)


def fix_encoding(text: str) -> str | Reject:
    """Undoes cp949 and UTF-8 read as Latin-1 or cp949, HTML entities and escaped Korean."""
    for _ in range(ROUNDS):
        if "&" in text:
            text = _ENTITY.sub(_unescaped, text).replace("\u00a0", " ")
    if "\\u" in text:
        text = _ESCAPED.sub(_from_escapes, text)
    if "%" in text:
        text = _PERCENT.sub(_from_percent, text)
    if _LOST.search(text) or _only_question_marks(text):
        return Reject("letters were lost in an earlier conversion (\ufffd, 占쏙옙 or ?? in their place)")
    if text.isascii():
        return text
    if _HAN.search(text) and (undone := _recoded(text, "utf-8", "cp949")) and _mostly_hangul(undone):
        return undone
    if _read_as_cp949(text):
        return Reject("UTF-8 that was read as cp949, and letters of it lost")
    if not _LATIN_1.search(text):
        return text
    if not HANGUL.search(text) and (undone := _read_as_latin(text)):
        return undone
    import ftfy

    text = ftfy.fix_encoding(text)
    if HANGUL.search(text):
        broken = any(len(_ACCENTED.findall(run)) >= 2 for run in _ACCENTED_RUN.findall(text))
    else:
        broken = bool(_ACCENTED.search(text)) and len(_UPPER_HALF.findall(text)) > 0.3 * len(text)
    return Reject("letters of another encoding, and some of them lost") if broken else text
