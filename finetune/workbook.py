"""Excel workbooks as rows: those of the first sheet with a known header, or else of the first that holds anything.

Other sheets are not read, and formulas count as the values that were last saved. A damaged sheet is lost from there on. Cells
become text; which columns matter is the business of `formats`.
"""

from __future__ import annotations

import shlex
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kosent import extras
from kosent.errors import DataError
from kosent.finetune.containers import Container, Row
from kosent.finetune.records import BrokenRow

XLSX_UNPACKED = 2 * 1024**3
"""Bytes a workbook may unpack to."""
HEADER_ROWS = 10
"""Rows of a sheet among which its header is looked for."""

_AGAIN = "open it in Excel and save it again, or download it again"

Recognised = Callable[[list[str]], bool]


class Sheet(Container):
    """The first sheet of an Excel workbook which has a known header within its first rows."""

    kind = "Excel"

    def __init__(self, path: Path, recognised: Recognised) -> None:
        super().__init__(path)
        extras.require("prepare", what=f"reading {path.name}, which is an Excel workbook,")
        self._check()
        self._title, self._header = "", 0
        try:
            self._find(recognised)
        except DataError:
            raise
        except Exception as error:  # a damaged workbook makes openpyxl raise almost anything
            raise self._bad(f"it is a damaged Excel workbook: {error}", hint=_AGAIN) from error
        if not self.names:
            raise self._bad("none of its sheets holds anything")
        self.kind = f"Excel, sheet {self._title}"

    def _check(self) -> None:
        try:
            with zipfile.ZipFile(self.path) as archive:
                members = archive.infolist()
        except (zipfile.BadZipFile, OSError, ValueError) as error:
            raise self._bad(f"it begins like an Excel workbook but is cut off or damaged: {error}", hint=_AGAIN) from error
        if not any(member.filename.lower() == "xl/workbook.xml" for member in members):
            inside = ", ".join(member.filename for member in members[:3])
            raise self._bad(
                f"it is a ZIP archive and no Excel workbook; it holds {inside}", hint=f"unzip {shlex.quote(str(self.path))}"
            )
        if sum(member.file_size for member in members) > XLSX_UNPACKED:
            raise self._bad(f"it unpacks to more than {XLSX_UNPACKED:,} bytes", hint="save it as CSV")

    @contextmanager
    def _workbook(self) -> Iterator[Any]:
        import openpyxl

        with self.path.open("rb") as file:  # by its name openpyxl would judge it by its suffix
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                workbook = openpyxl.load_workbook(file, read_only=True, data_only=True)
            yield workbook
            workbook.close()

    def _find(self, recognised: Recognised) -> None:
        """Title, header row and columns; when no header is recognised, the first row that holds something is taken for it."""
        with self._workbook() as workbook:
            for sheet in workbook.worksheets:
                for number, cells in enumerate(_cells(sheet), start=1):
                    if number > HEADER_ROWS:
                        break
                    names = [cell_text(cell) for cell in cells]
                    while names and not names[-1]:
                        names.pop()
                    known = recognised(names)
                    if known or (names and not self.names):
                        self._title, self._header, self.names = sheet.title, number, names
                    if known:
                        others = [other.title for other in workbook.worksheets if other.title != sheet.title]
                        self.unread = f"; other sheets, not read: {', '.join(others)}" if others else ""
                        return

    def rows(self) -> Iterator[Row | BrokenRow]:
        number = 0
        try:
            with self._workbook() as workbook:
                sheet = workbook[self._title]
                total = max((sheet.max_row or 0) - self._header, 0)
                for place, cells in enumerate(_cells(sheet), start=1):
                    number = place - self._header
                    if number >= 1 and any(cell is not None for cell in cells):
                        yield self._row(number, [cell_text(cell) for cell in cells])
                    if total:
                        self.position = min(self.size, self.size * max(number, 0) // max(total, number))
        except Exception as error:  # a damaged workbook makes openpyxl, zipfile and the XML parser raise almost anything
            yield self.broken(
                max(number, 0) + 1, f"the sheet is damaged here ({error}); the rest of the sheet is lost", rest_lost=True
            )
        self.position = self.size

    def _row(self, number: int, cells: list[str]) -> Row | BrokenRow:
        width = len(self.names)
        if any(cells[width:]):
            return self.broken(number, f"{len(cells)} cells where the header has {width}", str(cells))
        return number, dict(zip(self.names, cells + [""] * (width - len(cells)), strict=False))


def _cells(sheet: Any) -> Iterator[tuple[Any, ...]]:
    """Rows of cells. What the sheet says about its own size is often wrong, and openpyxl would believe it."""
    sheet.reset_dimensions()
    rows = sheet.iter_rows(values_only=True)
    while True:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            cells = next(rows, None)
        if cells is None:
            return
        yield cells


def cell_text(value: Any) -> str:
    """A cell of a sheet as text: 1.0 is "1", nothing is ""."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return "" if value is None else str(value).strip()
