"""HTML as text under its headings. Scripts, styles, navigation, forms and what is hidden are left out; nothing is fetched.

The page is read as a stream of elements by libxml2, which closes what was left open; no tree is built.
"""

from __future__ import annotations

from pathlib import Path

from lxml import etree

from kosent.rag.document import LONGEST_HEADING, Limits, Loaded, Sections
from kosent.rag.load_text import declared_encoding, read_text
from kosent.rag.readable import one_line

_LEFT_OUT = frozenset({
    "script", "style", "nav", "template", "noscript", "svg", "math", "iframe", "object", "embed", "applet", "canvas", "audio",
    "video", "select", "datalist", "textarea",
})  # fmt: skip
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_BLOCKS = frozenset({
    "address", "article", "aside", "blockquote", "body", "caption", "center", "dd", "details", "dialog", "div", "dl", "dt",
    "fieldset", "figcaption", "figure", "footer", "form", "header", "hgroup", "hr", "html", "legend", "li", "main", "ol", "p",
    "pre", "section", "summary", "table", "tbody", "tfoot", "thead", "tr", "ul",
})  # fmt: skip
_CELLS = frozenset(("td", "th"))


class PageReader:
    """Target of an lxml parser that puts the text of a page into `sections`."""

    def __init__(self, sections: Sections) -> None:
        self.title = ""
        self._sections = sections
        self._text: list[str] = []
        self._row: list[str] = []
        self._skipping = self._cells = self._pre = 0
        self._in_title = False
        self._item = False

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        if self._skipping or tag in _LEFT_OUT or _hidden(attributes):
            self._skipping += 1
        elif tag == "title":
            self._in_title = True
        elif tag in _CELLS:
            self._cells += 1
        elif tag == "br":
            self._text.append("\n" if self._pre else " " if self._cells else "\x00")
        elif tag in _BLOCKS or tag in _HEADINGS:
            self._boundary()
            self._pre += tag == "pre"
            self._item = tag == "li" or (self._item and tag == "p")

    def end(self, tag: str) -> None:
        if self._skipping:
            self._skipping -= 1
        elif tag == "title":
            self._in_title = False
        elif tag in _CELLS and self._cells:
            self._cells -= 1
            if not self._cells:
                self._row.append(self._taken())
        elif tag == "tr" and not self._cells:
            self._flush()
            row, self._row = "\t".join(self._row), []
            self._sections.add(row, "table")
        elif tag in _HEADINGS and not self._cells:
            if text := self._taken():
                self._sections.heading(_HEADINGS[tag], text)
        elif tag in _BLOCKS:
            self._boundary()
            self._pre -= tag == "pre" and self._pre > 0
            self._item = self._item and tag != "li"

    def data(self, text: str) -> None:
        if self._skipping:
            return
        if self._in_title:
            self.title += text if len(self.title) <= LONGEST_HEADING else ""
        else:
            self._text.append(text)

    def comment(self, text: str) -> None:
        """Comments are not for readers."""

    def close(self) -> None:
        self._flush()
        self._sections.add("\t".join(self._row), "table")

    def _boundary(self) -> None:
        if self._cells:
            self._text.append(" ")
        else:
            self._flush()

    def _taken(self) -> str:
        text, self._text = "".join(self._text), []
        return " ".join(text.replace("\x00", " ").split())

    def _flush(self) -> None:
        if self._pre:
            text, self._text = "".join(self._text), []
            self._sections.add(text)
            return
        lines = "".join(self._text).split("\x00")  # <br>
        self._text = []
        text = "\n".join(" ".join(line.split()) for line in lines).strip()
        if text:
            self._sections.add(f"- {text}" if self._item else text, "list" if self._item else "")
            self._item = False


def _hidden(attributes: dict[str, str]) -> bool:
    style = attributes.get("style", "").replace(" ", "").lower()
    return (
        "hidden" in attributes
        or attributes.get("aria-hidden") == "true"
        or "display:none" in style
        or "visibility:hidden" in style
    )


def read_html(text: str, sections: Sections) -> str:
    """Puts the text of a page or of a piece of one into `sections` and returns its title, "" when it has none."""
    reader = PageReader(sections)
    parser = etree.HTMLParser(target=reader, encoding="utf-8", no_network=True, huge_tree=False)
    parser.feed(text.replace("\x00", "").encode("utf-8", "replace"))
    parser.close()
    return one_line(reader.title)[:LONGEST_HEADING]


def load_html(path: Path, limits: Limits) -> Loaded:
    sections = Sections(limits)
    title = read_html(read_text(path, declared_encoding(path)), sections)
    return Loaded(title or path.stem, sections.end(), [])
