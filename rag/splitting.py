"""Cuts a document into chunks: never across a page, a heading or a row, at paragraphs first, then lines, sentences and words.

A chunk is an exact span of its section, so that a citation can open it there. The cutting is LangChain's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kosent.rag.document import Section

CHARACTERS, OVERLAP = 400, 60
"""Longest chunk and what it may repeat of the one before, in characters."""
NAME = f"structure-1:{CHARACTERS}:{OVERLAP}"
"""For the fingerprint of a collection: another way of splitting is another name."""
SEPARATORS = [r"\n\s*\n", r"\n", r"(?<=[.!?…。])[\"'”’)]*\s+", r"\s+", ""]


@dataclass(frozen=True)
class Chunk:
    """`text` stands at [start, end) of section number `section`; `page` and `heading` are the section's."""

    text: str
    section: int
    start: int
    end: int
    page: int | None = None
    heading: str = ""


def split(sections: Sequence[Section], *, characters: int = CHARACTERS, overlap: int = OVERLAP) -> Iterator[Chunk]:
    """Chunks in their order; what holds no letter and no number gives none."""
    from langchain_text_splitters import RecursiveCharacterTextSplitter

    splitter = RecursiveCharacterTextSplitter(
        SEPARATORS, is_separator_regex=True, keep_separator="end", chunk_size=characters, chunk_overlap=overlap
    )
    for number, section in enumerate(sections):
        begin = 0
        for text in splitter.split_text(section.text) if section.text.strip() else ():
            start = section.text.index(text, begin)
            begin = max(start + 1, start + len(text) - overlap)  # where a later chunk begins at the earliest
            if any(character.isalnum() for character in text):
                yield Chunk(text, number, start, start + len(text), section.page, section.heading)
