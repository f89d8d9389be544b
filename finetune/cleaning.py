"""Cleaning and splitting dialogues; every rule is counted, and what is rejected is kept with its reason.

text           NFC; control, escape and invisible characters removed; white space folded (`kosent.text.clean`)
empty          a dialogue ends before its first empty utterance; one without a single whole pair is rejected
foreign        a dialogue in which over a tenth of the letters of an utterance are neither Hangul nor Latin is rejected
duplicate      the same utterances as an earlier dialogue, compared by letters and digits alone, are rejected
leak           a training dialogue that shares a user utterance of six or more letters with validation or test is rejected
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from kosent.finetune.corpus import RawDialogue
from kosent.text import clean, foreign_share, normalized

MAX_FOREIGN_SHARE = 0.1
LEAK_LETTERS = 6
SPLITS = ("train", "validation", "test")


@dataclass
class Cleaned:
    """Outcome of cleaning: rows per split as they are written, rejected rows, and how often each rule acted."""

    rows: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: {split: [] for split in SPLITS})
    rejected: list[dict[str, Any]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)


def split_of(pairs: Iterable[tuple[str, str]], validation: float, test: float) -> str:
    """The split of a dialogue, decided by a hash of its own words: stable under re-ordering and growth of the corpus."""
    text = "\n".join(normalized(utterance) for pair in pairs for utterance in pair)
    place = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64
    if place < test:
        return "test"
    return "validation" if place < test + validation else "train"


def _clean_pairs(raw: RawDialogue, counts: Counter[str]) -> list[tuple[str, str]]:
    pairs = []
    for person, system in raw.pairs:
        cleaned = (clean(person), clean(system))
        if not all(cleaned) or "nan" in (cleaned[0].lower(), cleaned[1].lower()):
            break
        if cleaned != (person, system):
            counts["utterance pairs changed"] += 1
        pairs.append(cleaned)
    if pairs and len(pairs) < len(raw.pairs):
        counts["dialogues shorter than the columns allow"] += 1
    return pairs


def clean_dialogues(raws: Iterable[RawDialogue], system: str, *, validation: float, test: float) -> Cleaned:
    """Cleans and splits; `validation` and `test` are shares of the dialogues, 0 to 1."""
    outcome = Cleaned()
    seen: set[str] = set()

    def reject(raw: RawDialogue, reason: str) -> None:
        outcome.counts[f"rejected: {reason}"] += 1
        outcome.rejected.append({"reason": reason, "source": raw.source, "pairs": raw.pairs})

    kept: list[tuple[str, RawDialogue, list[tuple[str, str]]]] = []
    for raw in raws:
        pairs = _clean_pairs(raw, outcome.counts)
        key = "\n".join(normalized(utterance) for pair in pairs for utterance in pair)
        if not pairs:
            reject(raw, "empty")
        elif any(foreign_share(utterance) > MAX_FOREIGN_SHARE for pair in pairs for utterance in pair):
            reject(raw, "foreign")
        elif key in seen:
            reject(raw, "duplicate")
        else:
            seen.add(key)
            kept.append((split_of(pairs, validation, test), raw, pairs))

    held_out = {normalized(person) for split, _, pairs in kept if split != "train" for person, _ in pairs}
    held_out = {text for text in held_out if len(text) >= LEAK_LETTERS}
    for split, raw, pairs in kept:
        if split == "train" and any(normalized(person) in held_out for person, _ in pairs):
            reject(raw, "leak")
        else:
            outcome.rows[split].append({"messages": _messages(pairs, system), "meta": raw.meta | {"source": raw.source}})
    return outcome


def _messages(pairs: list[tuple[str, str]], system: str) -> list[dict[str, str]]:
    messages = [{"role": "system", "content": system}] if system else []
    for person, reply in pairs:
        messages += [{"role": "user", "content": person}, {"role": "assistant", "content": reply}]
    return messages
