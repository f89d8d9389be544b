"""What DOCX and HWPX have in common: paragraphs, headings, lists and tables in an archive of XML parts.

python-docx would unpack whole archives before one could look at them, and knows no HWPX; so both kinds are read by `safe_zip`
and `Body`, and `load_docx` and `load_hwpx` say what the elements of their kind mean.
"""

from __future__ import annotations

from kosent.rag.document import LONGEST_HEADING, Refusal, Sections
from kosent.rag.readable import one_line
from kosent.rag.safe_zip import Elements, SafeZip, read_xml

BREAKS = {"br": "\n", "cr": "\n", "lineBreak": "\n", "noBreakHyphen": "-", "hyphen": "-", "nbSpace": " ", "fwSpace": " "}


class _Table:
    def __init__(self) -> None:
        self.row: list[str] = []
        self.cell: list[str] = []


class Body(Elements):
    """Puts what a part says into `sections`: `p` holds `t`, and `tbl` holds `tr`, `tc` and again `p`, in both kinds."""

    skipped: frozenset[str] = frozenset()
    """Elements that are passed over with all that is in them."""

    def __init__(self, sections: Sections) -> None:
        super().__init__()
        self.sections = sections
        self._skipping = 0
        self._in_text = 0
        self._paragraphs: list[list[str]] = []  # a paragraph can hold a table or a text box, and so others
        self._tables: list[_Table] = []
        self.levels: list[int] = []  # of the paragraphs, 0 for plain text
        self.lists: list[bool] = []

    def begin(self, name: str, values: dict[str, str]) -> None:
        if self._skipping or name in self.skipped:
            self._skipping += 1
        elif name == "p":
            self._before_inner()
            self._paragraphs.append([])
            self.levels.append(self.level(values))
            self.lists.append(False)
        elif name == "t":
            self._in_text += 1
        elif name == "tbl":
            self._before_inner()
            self._tables.append(_Table())
        elif name == "tc" and self._tables:
            self._tables[-1].cell = []
        else:
            self.other(name, values)

    def finish(self, name: str) -> None:
        if self._skipping:
            self._skipping -= 1
        elif name == "p" and self._paragraphs:
            self._write("".join(self._paragraphs.pop()), self.levels.pop(), self.lists.pop())
        elif name == "t":
            self._in_text -= 1
        elif name == "tc" and self._tables:
            self._tables[-1].row.append(" ".join(" ".join(self._tables[-1].cell).split()))
        elif name == "tr" and self._tables:
            self._write_row()
        elif name == "tbl" and self._tables:
            self._tables.pop()
        else:
            self.other_end(name)

    def characters(self, content: str) -> None:
        if self._in_text and not self._skipping:
            self.put(content)

    def put(self, text: str) -> None:
        if self._paragraphs:
            self._paragraphs[-1].append(text)

    def level(self, values: dict[str, str]) -> int:
        """Level of the heading that a paragraph with these attributes is, 0 for plain text."""
        return 0

    def other(self, name: str, values: dict[str, str]) -> None:
        if name in BREAKS and self._in_text:
            self.put(BREAKS[name])
        elif name == "tab" and self._in_text:
            self.put("\t")

    def other_end(self, name: str) -> None:
        pass

    def _before_inner(self) -> None:
        """Writes what a paragraph holds before the table or text box inside it, so that the order stays."""
        if self._paragraphs and self._paragraphs[-1]:
            self._write("".join(self._paragraphs[-1]), self.levels[-1], self.lists[-1])
            self._paragraphs[-1].clear()

    def _write(self, text: str, level: int, in_list: bool) -> None:
        if not text.strip():
            return
        if self._tables:
            self._tables[-1].cell.append(text)
        elif level:
            self.sections.heading(level, text)
        elif in_list:
            self.sections.add(f"- {text.strip()}", "list")
        else:
            self.sections.add(text)

    def _write_row(self) -> None:
        row, self._tables[-1].row = self._tables[-1].row, []
        text = "\t".join(row)
        if not text.strip():
            return
        if len(self._tables) > 1:
            self._tables[-2].cell.append(" ".join(text.split()))
        else:
            self.sections.add(text, "table")


class _Title(Elements):
    """The title that a document states of itself."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""
        self._inside = False

    def begin(self, name: str, values: dict[str, str]) -> None:
        self._inside = name == "title"

    def finish(self, name: str) -> None:
        self._inside = False

    def characters(self, content: str) -> None:
        if self._inside and len(self.text) <= LONGEST_HEADING:
            self.text += content


def stated_title(archive: SafeZip, part: str, otherwise: str) -> str:
    """The title in the metadata at `part`, or `otherwise`."""
    found = _Title()
    try:
        read_xml(archive.read(part) or b"<none/>", found, part)
    except Refusal as refusal:
        if refusal.reason != "damaged":
            raise
    return one_line(found.text)[:LONGEST_HEADING] or otherwise
