"""What reaches a terminal: nothing that moves it, all that is meant to be read, the same in whatever pieces it comes."""

from __future__ import annotations

import random
import unicodedata

import pytest

from injections import INJECTIONS
from kosent.text import LONGEST_SEQUENCE, PrintableStream, printable

DIRECTIONS = set("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
NAMES, TEXTS = zip(*INJECTIONS, strict=True)
PARTS = [*"\x1b\x07\x9b\x9c\x9d\x90\r\n\t\\[]P_X^;0m@ 가a\u202e\ud800\u2028\x08", "\x1b]", "\x1b\\", "\x1b[", "안녕", "\r\n"]


def harmless(text: str) -> bool:
    return all(
        one in "\n\t" or (unicodedata.category(one) not in ("Cc", "Cs", "Zl", "Zp") and one not in DIRECTIONS) for one in text
    )


def in_pieces(pieces: list[str]) -> str:
    stream = PrintableStream()
    return "".join([*map(stream.feed, pieces), stream.rest()])


@pytest.mark.parametrize("text", TEXTS, ids=NAMES)
def test_an_injection_does_nothing_however_it_is_split(text: str) -> None:
    shown = printable(text)
    assert "안녕" in shown.replace("\n", "") or "안녕" not in text
    assert harmless(shown)
    assert printable(shown) == shown
    assert in_pieces(list(text)) == shown
    for place in range(len(text) + 1):
        assert in_pieces([text[:place], text[place:]]) == shown, place


def test_a_made_up_mixture_does_nothing_however_it_is_split() -> None:
    chance = random.Random(7)
    for _ in range(3000):
        parts = chance.choices(PARTS, k=chance.randint(1, 14))
        text = "".join(parts)
        shown = printable(text)
        assert harmless(shown) and printable(shown) == shown, ascii(text)
        assert in_pieces(parts) == in_pieces(list(text)) == shown, ascii(text)


SHOWN = {
    "osc 52 writes the clipboard": "안녕하세요",
    "osc 52 ended by st": "안녕하세요",
    "osc 52 in 8 bits": "안녕하세요",
    "osc 8 link": "안녕 여기 누르세요",
    "osc 0 title": "안녕",
    "osc 2 title without end": "2;안녕하세요, 이 글은 남아야 해요",
    "osc without end before many lines": "0;안녕\n둘째 줄\n셋째 줄",
    "osc as long as may be": "안녕끝",
    "osc one longer": "안녕" + "A" * 4093 + "끝",
    "osc in osc": "안녕0;겉끝",
    "osc given up for a csi": "안녕0;제목끝",
    "csi flood": "안녕",
    "csi with many parameters": "안녕",
    "csi with too many parameters": "1;" * 3000 + "m안녕",
    "csi without end": "안녕12;3",
    "csi without end before a letter": "3안녕",
    "csi cut by a newline": "안녕3\n1m",
    "dcs": "안녕끝",
    "dcs in 8 bits": "안녕끝",
    "sos, pm and apc": "안녕",
    "sos, pm and apc in 8 bits": "안녕",
    "reset and saved cursor": "안녕",
    "another character set": "안녕",
    "escape before a sequence": "안녕",
    "sequence in a sequence": "[2J안녕2J",
    "carriage return over a line": "믿지 마세요\n안녕      ",
    "carriage return and newline": "안녕\n하세요\n\n끝\n",
    "backspaces": "삭제안녕",
    "other controls": "안녕끝\ta",
    "line and paragraph separators": "안녕\n하세요\n끝",
    "direction overrides": "안녕 gpj.exe   ",
    "lone surrogates": "안녕\ufffd \ufffd",
    "joined emoji stay": "안녕 👩‍👩‍👧 ❤️ 🏴󠁧󠁢󠁥󠁮󠁧󠁿",
}


@pytest.mark.parametrize("name", SHOWN)
def test_what_stays_is_what_was_to_be_read(name: str) -> None:
    assert printable(dict(INJECTIONS)[name]) == SHOWN[name]


@pytest.mark.parametrize("begun", ["\x1b]0;", "\x1bP", "\x9d", "\x1b[", "\x9b"])
def test_a_sequence_that_never_ends_is_held_back_for_a_while_only(begun: str) -> None:
    stream, text, shown = PrintableStream(), begun + "1" * (2 * LONGEST_SEQUENCE), 0
    for count, character in enumerate(text, 1):
        shown += len(stream.feed(character))
        assert count - shown < LONGEST_SEQUENCE + len(begun)
    assert shown > LONGEST_SEQUENCE


def test_ordinary_text_is_not_held_back() -> None:
    stream = PrintableStream()
    for piece in ("오늘", " 많이\t", "힘드셨죠?\n", "❤️"):
        assert stream.feed(piece) == piece
    assert stream.feed("네\x1b") == "네"
    assert stream.feed("[1m요") == "요"
    assert stream.rest() == ""


def test_a_stream_can_be_used_again_after_its_rest() -> None:
    stream = PrintableStream()
    assert stream.feed("가\x1b]0;나") == "가"
    assert stream.rest() == "0;나"
    assert stream.feed("\x07다") == "다"
