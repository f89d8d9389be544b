"""How strongly a Korean message speaks of crisis or of heavy distress, and how likely a reply encourages harm: logistic
regression on pieces of words.

A message is reduced to its letters. Every run of three to seven jamo is a feature (so that 죽고시퍼 shares most of its own with
죽고 싶어), and every run of one to four syllables and of one to three words, by its CRC-32. The weights are 8-bit integers in
`data/`, made by `benchmarks/safety.py --fit` from the lines in `benchmarks/data/`. Plain Python, no library.
"""

from __future__ import annotations

import math
import re
import struct
import unicodedata
import zlib
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from importlib.resources.abc import Traversable

JAMO_RUNS, SYLLABLE_RUNS, WORD_RUNS = range(3, 8), range(1, 5), range(1, 4)
LONGEST = 200
"""Letters that are looked at; of a longer text, `parts` of this length."""
_LAUGH = re.compile(r"([ㅋㅎㅠㅜ.!?~ㄷㅡ;])\1+")
_OTHER = re.compile(r"[^\w\sㄱ-ㅎㅏ-ㅣ?!.]|_")
_HANGUL = re.compile(r"[가-힣]")
_DIGITS = re.compile(r"\d+")


def simplified(text: str) -> str:
    """NFC, lower case, repeated marks once, digits as 0, other symbols as spaces."""
    text = unicodedata.normalize("NFC", text).lower()
    text = _DIGITS.sub("0", _OTHER.sub(" ", _LAUGH.sub(r"\1", text)))
    return " ".join(text.split())[:LONGEST]


def features(text: str) -> set[int]:
    """CRC-32 of each of a message's pieces."""
    plain = simplified(text)
    syllables = f"^{plain.replace(' ', '')}$"
    words = ["^", *plain.split(), "$"]
    pieces = _runs("j", unicodedata.normalize("NFD", syllables), JAMO_RUNS) + _runs("s", syllables, SYLLABLE_RUNS)
    pieces += [f"w{' '.join(words[i : i + length])}" for length in WORD_RUNS for i in range(len(words) - length + 1)]
    return {zlib.crc32(piece.encode()) for piece in pieces}


def parts(text: str) -> list[str]:
    """Overlapping parts of `text`, each short enough to be looked at as a whole."""
    return [text[start : start + LONGEST] for start in range(0, max(1, len(text) - LONGEST // 2), LONGEST // 2)]


def _runs(kind: str, letters: str, lengths: range) -> list[str]:
    return [kind + letters[i : i + length] for length in lengths for i in range(len(letters) - length + 1)]


@dataclass(frozen=True)
class Classifier:
    """`file`: a line with biases, what one integer is worth and the number of features; their CRCs; a byte for each and class."""

    file: Traversable
    classes: tuple[str, ...]

    @cached_property
    def weights(self) -> tuple[list[float], dict[int, int], memoryview, float]:
        """Biases of the classes; the place of each feature; the weights, `len(classes)` integers a place; what one is worth."""
        data = self.file.read_bytes()
        head, _, body = data.partition(b"\n")
        *biases, unit, count = (float(word) for word in head.split())
        size, wide = int(count), len(self.classes)
        if len(biases) != wide or len(body) != size * (4 + wide):
            raise ValueError(f"{self.file} is damaged")
        places = dict(zip(struct.unpack(f"<{size}I", body[: 4 * size]), range(0, size * wide, wide), strict=True))
        return biases, places, memoryview(body[4 * size :]).cast("b"), unit

    def probabilities(self, text: str) -> dict[str, float]:
        """Of each of the classes, for one message or sentence."""
        biases, places, values, unit = self.weights
        pieces = features(text)
        found = [places[piece] for piece in pieces if piece in places]
        if not found:
            return {name: float(name == self.classes[0]) for name in self.classes}
        scale = unit / math.sqrt(len(pieces))
        scores = [bias + scale * sum(values[place + number] for place in found) for number, bias in enumerate(biases)]
        highest = max(scores)
        powers = [math.exp(score - highest) for score in scores]
        return dict(zip(self.classes, (power / sum(powers) for power in powers), strict=True))


def _data(name: str) -> Traversable:
    return files("kosent").joinpath("data", name)


MESSAGES = Classifier(_data("safety_weights.bin"), ("none", "concern", "crisis"))
REPLIES = Classifier(_data("reply_weights.bin"), ("safe", "harm"))


def warm_up() -> None:
    """Reads the weights, so that no message waits for them."""
    for classifier in (MESSAGES, REPLIES):
        classifier.probabilities("안녕")


def probability_of_harm(sentence: str) -> float:
    """That a sentence of a reply encourages suicide, self-harm or violence, or says not to seek help; 0 without Hangul."""
    if not _HANGUL.search(sentence):
        return 0.0
    return max(REPLIES.probabilities(part)["harm"] for part in parts(sentence))
