"""CSV files as rows.

A broken row costs itself only: what an open quote swallowed is read again line by line. Lines and rows beyond the limits below
are not read. The cells stay text as it stands there; which columns matter is the business of `formats`.
"""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from kosent.finetune.containers import Container, Line, Lines, Row, Unreadable
from kosent.finetune.records import BrokenRow

CSV_LINE = 1024 * 1024
"""Characters of a physical line."""
CSV_LINES = 200
"""Physical lines of a row."""


class _CsvRecords:
    """Records of a CSV text. What a broken one swallowed beyond its first line is read again."""

    def __init__(self, file: TextIO, delimiter: str) -> None:
        self.lines = Lines(file, CSV_LINE)
        self._delimiter = delimiter
        self._waiting: deque[Line] = deque()
        self._taken: list[Line] = []

    def _feed(self) -> Iterator[str]:
        while line := self._waiting.popleft() if self._waiting else self.lines.read():
            self._taken.append(line)
            if line.problem:
                raise Unreadable(line.problem)
            if len(self._taken) > CSV_LINES:
                raise Unreadable(f"not closed within {CSV_LINES} lines")
            yield line.text

    def __iter__(self) -> Iterator[tuple[Line, list[str] | str]]:
        """The first line of each record, and its cells or what is wrong with it."""
        reader = csv.reader(self._feed(), delimiter=self._delimiter, strict=True)
        while True:
            self._taken.clear()
            try:
                cells = next(reader)
            except StopIteration:
                return
            except (csv.Error, Unreadable) as error:
                yield self.give_up(str(error))
                reader = csv.reader(self._feed(), delimiter=self._delimiter, strict=True)
            else:
                yield self._taken[0], cells

    def give_up(self, problem: str) -> tuple[Line, str]:
        """The first line of the record at hand as a broken one; the others are read again as lines of their own."""
        first, *others = self._taken
        self._waiting.extendleft(reversed(others))
        if others or "unexpected end of data" in problem:
            problem = f"a quote that was opened here is not closed properly ({problem})"
        return first, f"line {first.number}: {first.problem or problem}"


def _is_blank(cells: list[str] | str) -> bool:
    return isinstance(cells, list) and len(cells) < 2 and not "".join(cells).strip("\ufeff \t")


class CsvTable(Container):
    """CSV with comma, tab or semicolon, whichever splits the header into most columns."""

    kind = "CSV"

    def __init__(self, path: Path, encoding: str) -> None:
        super().__init__(path, encoding)
        with self._text() as file:
            lines = Lines(file, CSV_LINE)
            line = lines.read()
            while line and not line.problem and not line.text.strip("\ufeff \t\r\n"):
                line = lines.read()
        if not line:
            raise self._bad("holds no text")
        if line.problem:
            raise self._bad(f"line {line.number}, which should be the header: {line.problem}")
        try:
            self._delimiter = max(",\t;", key=lambda mark: len(next(csv.reader([line.text], delimiter=mark))))
        except csv.Error as error:
            raise self._bad(f"line {line.number}, which should be the header: {error}") from error
        with self._text() as file:
            first, cells = next(record for record in _CsvRecords(file, self._delimiter) if not _is_blank(record[1]))
        if isinstance(cells, str):
            raise self._bad(f"the header cannot be read: {cells}")
        self.names = [cell.replace("\ufeff", "").strip() for cell in cells]
        self._header = first.number
        self.kind = {",": "CSV", "\t": "CSV with tabs", ";": "CSV with semicolons"}[self._delimiter]

    def rows(self) -> Iterator[Row | BrokenRow]:
        width, number = len(self.names), 0
        with self._text() as file:
            records = _CsvRecords(file, self._delimiter)
            for line, cells in records:
                self.position = records.lines.position()
                if line.number <= self._header or _is_blank(cells):
                    continue
                number += 1
                if isinstance(cells, list) and any(cell.strip() for cell in cells[width:]):
                    line, cells = records.give_up(f"{len(cells)} cells where the header has {width}")
                if isinstance(cells, str):
                    yield self.broken(number, cells, line.text)
                else:
                    yield number, dict(zip(self.names, cells + [""] * (width - len(cells)), strict=False))
        self.position = self.size
