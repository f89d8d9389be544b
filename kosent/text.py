"""Cleaning of text before it is learnt from, shown on a terminal or compared.

`clean` is for corpora, `printable` for every string that a model or a file hands to a terminal.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from functools import lru_cache

_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")
# zero-width space, joiners between Hangul, byte order mark, bidirectional controls, Hangul fillers; U+200D stays for joined emoji
_INVISIBLE = re.compile("[\u115f\u1160\u200b\u200c\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\u3164\ufeff\uffa0\u00ad]")
_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])|\x9b[0-?]*[ -/]*[@-~]?")
_NO_LETTER = re.compile(r"[\W_]+")
_EMPTY_LINES = re.compile(r"\n{3,}")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_HANGUL = re.compile(r"[\u1100-\u11ff\u3131-\u318e\uac00-\ud7a3]")


def parse_token_bytes(token: str) -> int | None:
    """The byte that a `<0x41>`-style vocabulary entry stands for, or None."""
    match = _BYTE_TOKEN.fullmatch(token)
    return int(match.group(1), 16) if match else None


def printable(text: str) -> str:
    """`text` without terminal escape sequences and control characters other than newline and tab.

    What is left can be written to a terminal without moving the cursor, setting a title or writing the clipboard.
    A sequence that never ends loses its escape character and stays readable.
    """
    return _CONTROL.sub("", _ANSI.sub("", text))


def clean(text: str) -> str:
    """NFC, no control or invisible characters, white space within a line as one space, at most one empty line in a row.

    Lines between two ``` keep the white space they begin with: in Python it is part of the code.
    """
    text = unicodedata.normalize("NFC", printable(text.replace("\r\n", "\n").replace("\r", "\n")))
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
