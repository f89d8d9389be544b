"""Text of documents made fit to be kept, and the question whether it can be read at all.

`tidy` takes out what nobody sees; nothing that carries meaning is changed. `garbled` finds text that was decoded wrongly: fonts
without a table of characters, UTF-8 read as cp949, cp949 read as Latin. It judges letters, not language: text in one script and
Latin passes, whichever script it is.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

from kosent.text import printable

_UNSEEN = re.compile("[\u00ad\u200b\u200c\u2060-\u2064\ufeff\U000e0000-\U000e0fff]")
_EMPTY_LINES = re.compile(r"\n{3,}")
# NFC takes quadratic time for marks on one letter; no script needs more than this many
_MARKS = 30
_MANY_MARKS = re.compile("[^\x00-\u02ff\u3400-\u9fff\uac00-\ud7a3]{%d,}" % _MARKS)  # noqa: UP031

FEW = 20
"""Letters or characters that are too few to judge."""
LOST_SHARE = 0.05
"""Share of characters that are U+FFFD, controls, for private use or unassigned."""
RARE_HANGUL = 0.1
"""Share of Hangul syllables that are not among the 2,350 of KS X 1001; in Korean it is below 0.01."""
ODD_SHARE = 0.25
"""Share of letters that hardly stand in a text: unusual Han, half-width Kana, phonetic signs, letters of a second script."""
LATIN_RUNS = 0.2
"""Share of characters in runs of four or more between U+0080 and U+00FF."""
_LATIN_RUN = re.compile("[\u0080-\u00ff]{4,}")
_FAMILIAR = ("LATIN", "HANGUL", "HIRAGANA", "KATAKANA", "GREEK", "CYRILLIC", "FULLWIDTH", "MODIFIER", "FEMININE", "MASCULINE")


def tidy(text: str) -> str:
    """NFC without terminal escapes, control, direction and invisible characters; lines without trailing white space, at most
    one empty line in a row and none at either end."""
    text = _UNSEEN.sub("", printable(text))
    if not text.isascii():
        text = unicodedata.normalize("NFC", _MANY_MARKS.sub(_fewer_marks, text))
    return _EMPTY_LINES.sub("\n\n", "\n".join(line.rstrip() for line in text.split("\n"))).strip("\n")


def one_line(text: str) -> str:
    return " ".join(tidy(text).split())


def _fewer_marks(found: re.Match[str]) -> str:
    kept, marks = [], 0
    for character in found.group():
        marks = marks + 1 if unicodedata.combining(character) else 0
        if marks <= _MARKS:
            kept.append(character)
    return "".join(kept)


def garbled(text: str) -> bool:
    """Whether `text` was most likely decoded wrongly. Fewer than `FEW` characters are never called garbled unless most of them
    are lost."""
    counts = Counter(text)
    total = sum(number for character, number in counts.items() if not character.isspace())
    lost = sum(number for character, number in counts.items() if _lost(character))
    if lost > total * (LOST_SHARE if total >= FEW else 0.5):
        return True
    if total < FEW:
        return False
    return sum(map(len, _LATIN_RUN.findall(text))) > total * LATIN_RUNS or _odd_letters(counts)


def _lost(character: str) -> bool:
    if character == "\ufffd":
        return True
    unknown = unicodedata.category(character) in ("Cc", "Cn", "Co", "Cs") and not character.isspace()
    return unknown and not "\U0001f000" <= character <= "\U0001faff"  # emoji newer than Python's tables


def _odd_letters(counts: Counter[str]) -> bool:
    letters = hangul = rare = odd = 0
    foreign: Counter[str] = Counter()
    for character, number in counts.items():
        if not character.isalpha():
            continue
        letters += number
        if character.isascii():
            continue
        name = unicodedata.name(character, "")
        if "\uac00" <= character <= "\ud7a3":
            hangul += number
            rare += number * (len(character.encode("euc_kr", "replace")) != 2)  # the others take eight bytes
        elif name.startswith("CJK"):
            odd += number * (not _usual_han(character))
        elif name.startswith("HALFWIDTH") or ("\u0180" <= character <= "\u02af" and character not in "ƠơƯư"):
            odd += number
        elif not name.startswith(_FAMILIAR):
            foreign[name.partition(" ")[0]] += number
    if letters < FEW:
        return False
    if hangul >= FEW and rare > hangul * RARE_HANGUL:
        return True
    # letters of one foreign script are a language, those of many are none
    most = max(foreign.values(), default=0)
    odd += foreign.total() - (most if most > foreign.total() * 0.8 else 0)
    return odd > letters * ODD_SHARE


def _usual_han(character: str) -> bool:
    for encoding in ("euc_kr", "shift_jis", "gb2312", "big5"):
        try:
            character.encode(encoding)
        except UnicodeEncodeError:
            continue
        return True
    return False
