"""DOCX of Word. Footnotes and endnotes come last; text boxes stand where they are anchored. Page numbers are not in such files.

Headers, footers, pictures, comments, hidden text and what was deleted under change tracking are not read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from kosent.rag.document import Limits, Loaded, Refusal, Sections
from kosent.rag.office import BREAKS, Body, stated_title
from kosent.rag.safe_zip import Elements, SafeZip, read_xml


class _WordStyles(Elements):
    """Which styles of styles.xml are headings, by their names or their outline levels, also through the style they build on."""

    def __init__(self) -> None:
        super().__init__()
        self._style = ""
        self._named: dict[str, int] = {}
        self._based: dict[str, str] = {}
        self._lists: set[str] = set()

    def begin(self, name: str, values: dict[str, str]) -> None:
        value = values.get("val", "")
        if name == "style":
            self._style = values.get("styleId", "")
        elif name == "name" and (found := re.fullmatch(r"heading ([1-9])", value.lower())):
            self._named[self._style] = int(found[1])
        elif name == "outlineLvl" and value in "012345678" and value:
            self._named.setdefault(self._style, int(value) + 1)
        elif name == "numPr":
            self._lists.add(self._style)
        elif name == "basedOn":
            self._based[self._style] = value

    def level(self, style: str) -> int:
        """Level of the headings that have this style, 0 for plain text."""
        return next((self._named[one] for one in self._family(style) if one in self._named), 0)

    def in_list(self, style: str) -> bool:
        return any(one in self._lists for one in self._family(style))

    def _family(self, style: str) -> Iterator[str]:
        for _ in range(10):
            yield style
            style = self._based.get(style, "")


class _WordBody(Body):
    skipped = frozenset({"Fallback", "moveFrom", "del", "sdtPr", "instrText", "tabs", "pPrChange", "rPrChange"})

    def __init__(self, sections: Sections, styles: _WordStyles) -> None:
        super().__init__(sections)
        self._styles = styles
        self._hidden = False

    def other(self, name: str, values: dict[str, str]) -> None:
        value = values.get("val", "")
        if name == "pStyle" and self.levels:
            self.levels[-1] = self.levels[-1] or self._styles.level(value)
            self.lists[-1] = self.lists[-1] or self._styles.in_list(value)
        elif name == "outlineLvl" and self.levels and value in "012345678" and value:
            self.levels[-1] = int(value) + 1
        elif name == "numPr" and self.lists:
            self.lists[-1] = True
        elif name == "r":
            self._hidden = False
        elif name == "vanish":
            self._hidden = value not in ("0", "false", "off")
        elif name == "tab" or name in BREAKS:
            self.put("\t" if name == "tab" else BREAKS[name])

    def other_end(self, name: str) -> None:
        if name == "r":
            self._hidden = False

    def put(self, text: str) -> None:
        if not self._hidden:
            super().put(text)


def load_docx(path: Path, limits: Limits) -> Loaded:
    archive = SafeZip(path, limits)
    parts = [name for name in archive.names() if re.fullmatch(r"word/document\d?\.xml", name)]
    if not parts:
        raise Refusal("unknown_kind", "it is a ZIP archive and no Word document")
    styles = _WordStyles()
    if data := archive.read("word/styles.xml"):
        read_xml(data, styles, "word/styles.xml")
    sections = Sections(limits)
    read_xml(archive.read(parts[0]) or b"", _WordBody(sections, styles), parts[0])
    notes = _notes(archive, sections, styles)
    return Loaded(stated_title(archive, "docProps/core.xml", path.stem), sections.end(), notes)


def _notes(archive: SafeZip, sections: Sections, styles: _WordStyles) -> list[str]:
    """Footnotes and endnotes as sections of their own at the end: where they belong stands in the text as a number only."""
    for part, heading in (("word/footnotes.xml", "각주"), ("word/endnotes.xml", "미주")):
        if data := archive.read(part):
            sections.cut(heading)
            try:
                read_xml(data, _WordBody(sections, styles), part)
            except Refusal as refusal:
                if refusal.reason != "damaged":
                    raise
                return [f"{part} is damaged and was read only in part"]
    return []
