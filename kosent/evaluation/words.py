"""Texts as the metrics compare them: NFC, without space around, cut into Kiwi's morphemes once each."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any

from kosent.morphemes import Morphemes, shared


def nfc(texts: Sequence[str]) -> list[str]:
    return [unicodedata.normalize("NFC", text).strip() for text in texts]


class Words:
    """The morphemes of texts, particles, endings and punctuation too; a text that was seen before is not analysed again."""

    def __init__(self, analyser: Morphemes | None = None) -> None:
        self._analyser = analyser or shared("evaluate")
        self._seen: dict[str, list[str]] = {"": []}

    def __call__(self, texts: Sequence[str]) -> list[list[str]]:
        """A morpheme has no space within it."""
        new = list(dict.fromkeys(text for text in texts if text not in self._seen))
        for text, found in zip(new, self._analyser.words(new), strict=True):
            self._seen[text] = ["".join(form.split()) for form in found]
        return [self._seen[text] for text in texts]


def unit_vectors(texts: Sequence[str], embedder: Any) -> Any:
    """Unit vectors [len(texts), dimension] of NFC texts: equal ones are embedded once, and those of a length together."""
    import numpy as np

    different = sorted(set(texts), key=lambda text: (len(text), text))
    place = {text: number for number, text in enumerate(different)}
    vectors = embedder.questions(different)
    return np.asarray(vectors)[[place[text] for text in texts]]
