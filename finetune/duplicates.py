"""The index of rows already seen: exact duplicates by hash, near duplicates by MinHash and then by counting.

MinHash with locality-sensitive hashing (Broder 1997; Indyk & Motwani 1998) proposes earlier rows; the similarity that decides
is computed from the letters themselves, so a proposal alone never rejects anything. With 16 bands of 8, a pair at a Jaccard
similarity of 0.85 is proposed with a probability of 0.994, one at 0.9 of 0.9999, one at 0.5 of 0.06.
"""

from __future__ import annotations

import hashlib
from array import array

from rensa import RMinHash, RMinHashLSH

PERMUTATIONS, BANDS, SEED = 128, 16, 42
NGRAM = 3
MIN_LETTERS = 12
"""Shorter rows are compared exactly only."""
MAX_PROPOSALS = 100


def content_hash(text: str) -> int:
    """The first 8 bytes of SHA-256 as an unsigned number: the same on every machine."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


class DuplicateIndex:
    """Remembers about 2 KB a row, which is what grows with a corpus."""

    def __init__(self, *, exact: bool, near: bool, threshold: float) -> None:
        self.exact, self.near, self.threshold = exact, near, threshold
        self._seen: dict[int, int] = {}
        self._texts: list[str] = []
        self._rows: array[int] = array("Q")
        self._lsh = RMinHashLSH(threshold, PERMUTATIONS, BANDS)

    def find(self, key: str, row: int) -> tuple[str, int, float] | None:
        """`("duplicate" | "near", earlier row, similarity)`, or None, and then the row is remembered.

        `key` is the row reduced to letters and digits, its utterances on lines of their own; `row` is any number for it.
        """
        digest = content_hash(key)
        if self.exact and digest in self._seen:
            return "duplicate", self._seen[digest], 1.0
        text = key.replace("\n", "")
        if self.near and len(text) >= MIN_LETTERS:
            trigrams = {text[i : i + NGRAM] for i in range(len(text) - NGRAM + 1)}
            sketch = RMinHash(PERMUTATIONS, SEED)
            sketch.update(sorted(trigrams))
            for proposal in sorted(self._lsh.query(sketch))[:MAX_PROPOSALS]:
                earlier = self._texts[proposal]
                others = {earlier[i : i + NGRAM] for i in range(len(earlier) - NGRAM + 1)}
                similarity = len(trigrams & others) / len(trigrams | others)
                if similarity >= self.threshold:
                    return "near", self._rows[proposal], similarity
            self._lsh.insert(len(self._texts), sketch)
            self._texts.append(text)
            self._rows.append(row)
        if self.exact:
            self._seen[digest] = row
        return None
