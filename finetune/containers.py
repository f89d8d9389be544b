"""What every opened corpus file has in common, and the reading of text line by line.

Rows come out one at a time, one dict a row: what is held in memory is bounded, whatever the size of the file or of a line in it
(Excel is the exception: openpyxl keeps the shared texts of a workbook). A row that cannot be read comes out as a `BrokenRow`.
Each kind of file has a module of its own, and `open_file` decides between them; what a row means is the business of `formats`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from kosent.errors import DataError
from kosent.finetune.records import BrokenRow

RAW = 500
"""Characters of a broken row that are kept."""

Row = tuple[int, dict[str, Any]]
"""Row number from 1, and the cells under their names."""


class Container(ABC):
    """An opened corpus file."""

    kind = ""
    """What people call it."""
    nested = False
    """Whether values can be lists and objects."""
    unread = ""
    """What else is in the file and is not read, for people."""

    def __init__(self, path: Path, encoding: str = "") -> None:
        self.path = path
        self.encoding = encoding
        self.size = path.stat().st_size
        self.position = 0
        """Bytes read, at most `size`."""
        self.names: list[str] = []
        """Columns of a table; of JSON the keys of the first entry."""

    @abstractmethod
    def rows(self) -> Iterator[Row | BrokenRow]:
        """All rows from the first, each time it is called. Raises `DataError` when the file as a whole cannot be read."""

    def broken(self, row: int, problem: str, raw: str = "", *, rest_lost: bool = False) -> BrokenRow:
        problem, raw = (text.encode("utf-8", "backslashreplace").decode() for text in (problem, raw[:RAW]))
        return BrokenRow(self.path.name, row, problem, raw, rest_lost)

    def _text(self, newline: str = "") -> TextIO:
        """The file as text. All of it fits the encoding, apart perhaps from a character cut off at the very end."""
        return self.path.open(encoding=self.encoding, errors="replace", newline=newline)

    def _bad(self, problem: str, hint: str | None = None) -> DataError:
        return DataError(f"{self.path}: {problem}.", hint=hint)


class Unreadable(Exception):
    """A row or a file that cannot be read further."""


@dataclass(frozen=True)
class Line:
    """A physical line of a text file; with a problem, `text` may be only its beginning."""

    number: int
    text: str
    problem: str = ""


class Lines:
    """Physical lines of a text file, of which none is held beyond `limit` characters."""

    def __init__(self, file: TextIO, limit: int) -> None:
        self._file = file
        self._limit = limit
        self._number = 0

    def position(self) -> int:
        """Bytes read."""
        buffer: Any = self._file.buffer
        return int(buffer.tell())

    def read(self) -> Line | None:
        text = self._file.readline(self._limit + 1)
        if not text:
            return None
        self._number += 1
        if len(text) > self._limit and not text.endswith(("\n", "\r")):
            while (more := self._file.readline(self._limit)) and not more.endswith(("\n", "\r")):
                pass
            return Line(self._number, text[:RAW], f"longer than {self._limit:,} characters")
        if "\0" in text:
            return Line(self._number, text[:RAW], "holds NUL bytes")
        if text.endswith("\ufffd"):
            return Line(self._number, text, "the file ends in the middle of a character, so it is cut off")
        return Line(self._number, text)
