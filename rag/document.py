"""What every loader of documents shares: `Loaded` and its sections, the limits, and why a document was refused.

Loaders raise `Refusal`, which knows no path; `kosent.rag.loaders` makes an `UnreadableDocument` of it. `Sections` gathers
paragraphs under their headings and counts characters, so that no document grows beyond its limits while it is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kosent.errors import DataError
from kosent.rag.readable import one_line, tidy

Reason = Literal["encrypted", "no_text", "garbled", "too_big", "damaged", "unsafe", "unknown_kind"]
GARBLED = "its characters were lost on the way, and what is left is no text"
GARBLED_HINT = "save it again, or in another format"
LONGEST_HEADING = 200
"""Characters of a heading or a title; what is longer is no heading but text."""


@dataclass(frozen=True)
class Limits:
    """How much of a document is read; beyond it the document is refused as a whole."""

    megabytes: int = 50
    """Size of the file, in MiB."""
    pages: int = 2_000
    characters: int = 5_000_000
    """Characters of all its text and headings."""
    unpacked: int = 200
    """MiB that the parts of a DOCX or HWPX which are read may unpack to."""
    seconds: int = 30
    """Seconds of processor time a PDF may take, with one more for each of its pages."""


@dataclass(frozen=True)
class Section:
    """A stretch of a document that belongs together; passages are cut from `text` and point into it."""

    text: str
    page: int | None = None
    """From 1; only of PDF."""
    heading: str = ""
    """Headings above it, from the outermost: "2장 > 마음 돌보기"."""


@dataclass(frozen=True)
class Loaded:
    """The text of one document."""

    title: str
    sections: list[Section]
    """In the order of the document; none is blank."""
    notes: list[str]
    """What was odd and did not prevent reading, in whole sentences without a full stop."""


class UnreadableDocument(DataError):
    """A document that cannot be used; `reason` says which kind of trouble it is."""

    def __init__(self, message: str, *, reason: Reason, path: Path, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.reason, self.path = reason, path


class Refusal(Exception):
    """Why a loader gives up; `str()` says what was found, to be read after the name of the file and a colon."""

    def __init__(self, reason: Reason, found: str, hint: str | None = None) -> None:
        super().__init__(found)
        self.reason, self.hint = reason, hint


class Sections:
    """Paragraphs gathered into sections, in the order in which they come."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._path: list[tuple[int, str]] = []  # level and text of the headings above
        self._blocks: list[str] = []
        self._last = ""
        self._bare = False  # nothing stands under the last heading yet
        self._found: list[Section] = []
        self._characters = 0

    def heading(self, level: int, text: str) -> None:
        """A heading of `level`, 1 being the outermost; it ends the section before it."""
        text = one_line(text)
        if len(text) > LONGEST_HEADING:
            self.add(text)
        elif text:
            self._close()
            if self._bare and self._path[-1][0] >= level:
                self._emit(self._path[-1][1])  # a heading without a text of its own is kept as one
            while self._path and self._path[-1][0] >= level:
                self._path.pop()
            self._path.append((level, text))
            self._bare = True

    def add(self, text: str, kind: str = "") -> None:
        """A paragraph. Those of the same `kind` (lines of a list or of a table) stand together without an empty line."""
        text = tidy(text)
        if text.strip():
            if self._blocks:
                self._blocks.append("\n" if kind and kind == self._last else "\n\n")
            self._blocks.append(text)
            self._count(len(text) + 2)
            self._last, self._bare = kind, False

    def cut(self, heading: str | None = None) -> None:
        """Ends the section; the next one stands under the same headings, or under `heading` alone."""
        self._close()
        if heading is not None:
            self._path, self._bare = [(1, one_line(heading)[:LONGEST_HEADING])], False

    def end(self) -> list[Section]:
        self._close()
        if self._bare:
            self._emit(self._path[-1][1])
            self._bare = False
        return self._found

    def _close(self) -> None:
        if self._blocks:
            self._emit("".join(self._blocks))
            self._blocks, self._last = [], ""

    def _emit(self, text: str) -> None:
        heading = " > ".join(text for _, text in self._path)
        self._count(len(heading))
        self._found.append(Section(text, heading=heading))

    def _count(self, characters: int) -> None:
        self._characters += characters
        if self._characters > self._limits.characters:
            raise Refusal("too_big", f"it holds more than {self._limits.characters:,} characters", "split it into several files")
