"""Cleaning of text before it is learnt from, shown on a terminal or compared.

`clean` is for corpora, `printable` for every string that a model or a file hands to a terminal, `PrintableStream` for the same
in pieces. What a letter looks like is not judged: letters of other scripts and joined emoji stay as they are.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from functools import lru_cache

_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")
# zero-width space, joiners between Hangul, byte order mark, bidirectional controls, Hangul fillers; U+200D stays for joined emoji
_INVISIBLE = re.compile("[\u115f\u1160\u200b\u200c\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\u3164\ufeff\uffa0\u00ad]")
_NO_LETTER = re.compile(r"[\W_]+")
_EMPTY_LINES = re.compile(r"\n{3,}")
_HANGUL = re.compile(r"[\u1100-\u11ff\u3131-\u318e\uac00-\ud7a3]")


def parse_token_bytes(token: str) -> int | None:
    """The byte that a `<0x41>`-style vocabulary entry stands for, or None."""
    match = _BYTE_TOKEN.fullmatch(token)
    return int(match.group(1), 16) if match else None


LONGEST_SEQUENCE = 4096
"""Characters of the longest escape sequence that is taken for one, and so the most that `PrintableStream` holds back."""
_INSIDE = LONGEST_SEQUENCE - 4  # without its introducer and its end, which have at most two characters each
_BY_ITSELF = r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
# OSC, DCS, SOS, PM or APC with its text, in which no control but a tab can stand; CSI; each without its end.
# No `+` gives back what it took, and no text holds the beginning of another sequence: time is linear in the length.
_STRING = rf"(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x00-\x08\x0a-\x1f\x7f-\x9f]{{0,{_INSIDE}}}+"
_CSI = rf"(?:\x1b\[|\x9b)[ -?]{{0,{_INSIDE}}}+"
_SHORT = r"\x1b[ -/]{0,2}+"
_UNPRINTABLE = re.compile(rf"{_STRING}(?:[\x07\x9c]|\x1b\\)|{_CSI}[@-~]|{_SHORT}[0-~]|\r\n?|{_BY_ITSELF}")
_BEGUN = re.compile(rf"(?:{_STRING}\x1b?|{_CSI}|{_SHORT}|\r)\Z")
_ANY = re.compile(_BY_ITSELF)


def printable(text: str) -> str:
    """`text` without terminal escape sequences, direction controls, and control characters other than newline and tab.

    What is left can be written to a terminal without moving the cursor, setting a title, writing the clipboard or turning the
    direction of the line. A sequence that does not end within its line and `LONGEST_SEQUENCE` characters loses its first one or
    two, and the rest stays readable. Carriage returns and the separators of lines and paragraphs become newlines; half a
    character (a lone surrogate) becomes U+FFFD.
    """
    return text if _ANY.search(text) is None else _UNPRINTABLE.sub(_in_its_place, text)


def _in_its_place(found: re.Match[str]) -> str:
    first = found.group()[0]
    if first in "\r\u2028\u2029":
        return "\n"
    return "\ufffd" if "\ud800" <= first <= "\udfff" else ""


class PrintableStream:
    """`printable` for text that comes in pieces: what `feed` and, at the end, `rest` return adds up to the same, wherever the
    pieces begin and end. A sequence that has begun is held back until it is known what it is."""

    def __init__(self) -> None:
        self._held = ""

    def feed(self, chunk: str) -> str:
        """What can be shown now."""
        text = self._held + chunk
        begun = _BEGUN.search(text) if _ANY.search(text) else None
        ready = begun.start() if begun else len(text)
        self._held = text[ready:]
        return printable(text[:ready])

    def rest(self) -> str:
        """What was held back; another text may follow."""
        held, self._held = self._held, ""
        return printable(held)


def clean(text: str) -> str:
    """NFC, no control or invisible characters, white space within a line as one space, at most one empty line in a row.

    Lines between two ``` keep the white space they begin with: in Python it is part of the code.
    """
    text = unicodedata.normalize("NFC", printable(text.replace("\u2028", " ").replace("\u2029", " ")))
    text = _INVISIBLE.sub("", text)
    if "\n" not in text:
        return " ".join(text.split())
    lines, in_code = [], False
    for line in text.split("\n"):
        folded = " ".join(line.split())
        fence = folded.startswith("```") and "```" not in folded[3:]
        indent = line[: len(line) - len(line.lstrip())] if in_code and folded and not fence else ""
        lines.append(indent + folded)
        in_code ^= fence
    return _EMPTY_LINES.sub("\n\n", "\n".join(lines)).strip()


@lru_cache(maxsize=1024)
def normalized(text: str) -> str:
    """`text` reduced to its letters and digits, lower case: for telling whether two utterances are the same."""
    return _NO_LETTER.sub("", unicodedata.normalize("NFC", text).lower())


def content_hash(text: str) -> int:
    """The first 8 bytes of SHA-256 as an unsigned number: the same on every machine."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def is_foreign(character: str) -> bool:
    """A letter that is neither Hangul nor Latin: Han, Kana, Cyrillic, Thai, Arabic and so on."""
    if not character.isalpha() or _HANGUL.match(character):
        return False
    return not unicodedata.name(character, "").startswith(("LATIN", "HANGUL", "FULLWIDTH LATIN", "HALFWIDTH HANGUL"))
