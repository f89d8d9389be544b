"""A document as it is stored: its chunks, and what each carries in Chroma."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from kosent.rag.keyword_index import Entry
from kosent.rag.splitting import Chunk
from kosent.rag.vectors import AT_ONCE

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Prepared:
    """A document that is ready to be stored: its chunks, their unit vectors [chunks, dimension] and their morphemes."""

    entry: Entry
    chunks: Sequence[Chunk]
    vectors: np.ndarray[Any, Any]
    morphemes: Sequence[Sequence[str]]


def searched_text(entry: Entry, chunk: Chunk) -> str:
    """What is compared with a question: where a chunk stands belongs to what it says."""
    return "\n".join(dict.fromkeys(filter(None, (entry.title, chunk.heading, chunk.text))))


def document_key(source: str, sha256: str) -> str:
    """Names one version of a document: the same content from the same place is the same."""
    return hashlib.sha256(f"{source}\0{sha256}".encode()).hexdigest()[:24]


def chunk_of(text: str, facts: dict[str, Any]) -> Chunk:
    place = (int(facts["section"]), int(facts["start"]), int(facts["end"]))
    return Chunk(text, *place, page=facts.get("page"), heading=str(facts.get("heading", "")))


def facts_of(entry: Entry, number: int, chunk: Chunk) -> dict[str, str | int | float]:
    facts: dict[str, str | int | float] = {
        "document": entry.key, "source": entry.source, "title": entry.title, "kind": entry.kind,
        "number": number, "section": chunk.section, "start": chunk.start, "end": chunk.end,
    }  # fmt: skip
    if chunk.heading:
        facts["heading"] = chunk.heading
    if chunk.page is not None:
        facts["page"] = chunk.page
    if number == 0:
        facts["entry"] = json.dumps(asdict(entry), ensure_ascii=False)
    return facts


def entry_of(facts: dict[str, Any]) -> Entry:
    return Entry(**json.loads(facts["entry"]))


def parts(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(ids), AT_ONCE):
        yield ids[start : start + AT_ONCE]
