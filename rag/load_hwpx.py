"""HWPX of Hancom Office. Footnotes and text boxes stand where they are anchored; page numbers are not in such files.

Headers, footers, pictures, formulas, hidden comments and what was deleted under change tracking are not read.
"""

from __future__ import annotations

import re
from pathlib import Path

from kosent.rag.document import Limits, Loaded, Refusal, Sections
from kosent.rag.office import Body, stated_title
from kosent.rag.safe_zip import Elements, SafeZip, read_xml

_LEVELS = 9
_SECTION = re.compile(r"Contents/section(\d{1,6})\.xml", re.IGNORECASE)
_OUTLINE_STYLE = re.compile(r"(?:heading|outline|개요|제목)\s*([1-9])", re.IGNORECASE)


class _HancomStyles(Elements):
    """Which styles and paragraph shapes of header.xml are outline levels."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: dict[str, int] = {}
        self.styles: dict[str, int] = {}
        self._shape = ""
        self._shape_of: dict[str, str] = {}

    def begin(self, name: str, values: dict[str, str]) -> None:
        if name == "paraPr":
            self._shape = values.get("id", "")
        elif name == "heading" and values.get("type", "").upper() == "OUTLINE":
            level = values.get("level", "0")
            self.shapes[self._shape] = int(level) % _LEVELS + 1 if level.isascii() and level.isdigit() and len(level) < 3 else 1
        elif name == "style":
            names = (_OUTLINE_STYLE.fullmatch(values.get(key, "").strip()) for key in ("name", "engName"))
            style = values.get("id", "")
            self._shape_of[style] = values.get("paraPrIDRef", "")
            if found := next((one for one in names if one), None):
                self.styles[style] = int(found[1])

    def level(self, style: str, shape: str) -> int:
        return self.styles.get(style) or self.shapes.get(shape) or self.shapes.get(self._shape_of.get(style, ""), 0)


class _HancomBody(Body):
    skipped = frozenset({"header", "footer", "equation", "shapeComment", "secPr", "hiddenComment", "fieldBegin"})

    def __init__(self, sections: Sections, styles: _HancomStyles) -> None:
        super().__init__(sections)
        self._styles = styles
        self._deleted = False

    def level(self, values: dict[str, str]) -> int:
        return self._styles.level(values.get("styleIDRef", ""), values.get("paraPrIDRef", ""))

    def other(self, name: str, values: dict[str, str]) -> None:
        if name in ("deleteBegin", "deleteEnd"):
            self._deleted = name == "deleteBegin"
        else:
            super().other(name, values)

    def put(self, text: str) -> None:
        if not self._deleted:
            super().put(text)


def load_hwpx(path: Path, limits: Limits) -> Loaded:
    archive = SafeZip(path, limits)
    numbered = sorted((int(found[1]), name) for name in archive.names() if (found := _SECTION.fullmatch(name)))
    if b"encryption-data" in (archive.read("META-INF/manifest.xml") or b""):
        raise Refusal("encrypted", "it is protected with a password", "save it without a password in Hancom Office")
    if not numbered:
        raise Refusal("unknown_kind", "it is a ZIP archive and no HWPX document")
    styles = _HancomStyles()
    if data := archive.read("Contents/header.xml"):
        read_xml(data, styles, "Contents/header.xml")
    sections = Sections(limits)
    for _, part in numbered:
        read_xml(archive.read(part) or b"", _HancomBody(sections, styles), part)
    return Loaded(stated_title(archive, "Contents/content.hpf", path.stem), sections.end(), [])
