"""The index of rows already seen: exact duplicates by hash, near duplicates by MinHash and then by counting.

MinHash with locality-sensitive hashing (Broder 1997; Indyk & Motwani 1998) proposes earlier rows, the agreement of the sketches
sorts the proposals, and the similarity that decides is counted in the letters themselves, so a proposal alone never rejects
anything. With 16 bands of 8, a pair at a Jaccard similarity of 0.85 is proposed with a probability of 0.994, one at 0.9 of
0.9999, one at 0.5 of 0.06.
"""

from __future__ import annotations

from array import array

import numpy as np
from rensa import RMinHash, RMinHashLSH

from kosent.text import content_hash

PERMUTATIONS, BANDS, SEED = 128, 16, 42
NGRAM = 3
MIN_LETTERS = 12
"""Shorter rows are compared exactly only."""
MAX_PROPOSALS = 5_000
"""Newest proposals that are looked at."""
SLACK = 0.12
"""How far below the threshold the agreement of two sketches may be: four standard errors of 128 permutations."""
MAX_COUNTED = 20
"""Best proposals whose letters are counted."""


def trigrams(key: str) -> set[str]:
    """Runs of three characters of a key, ends of utterances included: 남자 and 여자 differ in three of them, also in front."""
    padded = f"\n\n{key}\n\n"
    return {padded[i : i + NGRAM] for i in range(len(padded) - NGRAM + 1)}


class DuplicateIndex:
    """Remembers about 2 KB a row and its letters, which is what grows with a corpus."""

    def __init__(self, *, exact: bool, near: bool, threshold: float) -> None:
        self.exact, self.near, self.threshold = exact, near, threshold
        self._seen: dict[int, int] = {}
        self._keys: list[str] = []
        self._rows, self._groups = array("Q"), array("B")
        self._sketches = array("I")
        self._lsh = RMinHashLSH(threshold, PERMUTATIONS, BANDS)

    def find(self, key: str, row: int, group: int = 0) -> tuple[str, int, float] | None:
        """`("duplicate" | "near", earlier row, similarity)`, or None, and then the row is remembered.

        `key` is the row reduced to letters and digits, its utterances on lines of their own; `row` is any number for it. Rows of
        another `group`, 0 to 255, are never near duplicates.
        """
        digest = content_hash(key)
        if digest in self._seen:
            return ("duplicate", self._seen[digest], 1.0) if self.exact else None
        if self.near and len(key) >= MIN_LETTERS:
            sketch = RMinHash(PERMUTATIONS, SEED)
            own = trigrams(key)
            sketch.update(list(own))
            signature = sketch.digest()
            if found := self._nearest(own, self._proposals(sketch, signature, len(key), group)):
                return "near", *found
            self._lsh.insert(len(self._keys), sketch)
            self._keys.append(key)
            self._rows.append(row)
            self._groups.append(group)
            self._sketches.extend(signature)
        self._seen[digest] = row
        return None

    def _proposals(self, sketch: RMinHash, signature: list[int], length: int, group: int) -> list[int]:
        """Earlier rows worth counting, those whose sketches agree most first."""
        loose = self.threshold * 0.9  # a set of trigrams may be smaller than its text
        low, high = length * loose, length / loose
        proposed = [
            place for place in sorted(self._lsh.query(sketch), reverse=True)[:MAX_PROPOSALS]
            if self._groups[place] == group and low <= len(self._keys[place]) <= high
        ]  # fmt: skip
        if not proposed:
            return []
        sketches = np.frombuffer(self._sketches, dtype=np.uint32).reshape(-1, PERMUTATIONS)
        agreement = (sketches[proposed] == np.array(signature, dtype=np.uint32)).mean(axis=1)
        best = sorted(zip(-agreement, proposed, strict=True))[:MAX_COUNTED]
        return [place for disagreement, place in best if -disagreement >= self.threshold - SLACK]

    def _nearest(self, own: set[str], proposed: list[int]) -> tuple[int, float] | None:
        for place in proposed:
            others = trigrams(self._keys[place])
            similarity = len(own & others) / len(own | others)
            if similarity >= self.threshold:
                return self._rows[place], similarity
        return None
