"""Markdown as text under its headings, and conversations that the chat exported as Markdown.

Marks of emphasis, addresses of links and HTML go; tables become lines with tabs, code stays as it stands. An exported
conversation becomes one section of turns that name their speaker, and what was said stays as it stands in the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

from kosent.rag.document import Limits, Loaded, Refusal, Sections
from kosent.rag.load_html import read_html
from kosent.rag.load_text import encoding_of, read_text
from kosent.rag.readable import one_line

ASSISTANT, USER = "챗봇", "사용자"
"""The speakers of a conversation, as they are written before what they say."""
LONGEST_INLINE = 5_000
"""Characters of a paragraph in which emphasis and links are looked for; the time that takes can grow with the square."""

_EXPORTED = {"나": USER, "You": USER, "KoSent": ASSISTANT}
_ABOUT = re.compile(r"- (?:날짜|Date): \d{4}-\d\d-\d\d")
_FRONT_MATTER = re.compile(r"\A---[ \t]*\n(.{0,20000}?)^(?:---|\.\.\.)[ \t]*$\n?", re.DOTALL | re.MULTILINE)
_FRONT_TITLE = re.compile(r"^title:[ \t]*(\S.{0,300})$", re.MULTILINE)
_HTML_COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)


class _Writer:
    """Walks over the tokens of a document and puts its text into `sections`."""

    def __init__(self, parser: MarkdownIt, sections: Sections) -> None:
        self._parser = parser
        self._sections = sections
        self._numbers: list[int | None] = []  # next number of each list around, None in one with bullets
        self._bullet = ""
        self._row: list[str] | None = None
        self.title = ""

    def write(self, tokens: Sequence[Token]) -> None:
        heading = 0
        for token in tokens:
            kind = token.type
            if kind == "heading_open":
                heading = int(token.tag[1]) if token.level == 0 else 0
            elif kind == "inline":
                self._inline(self._plain(token.content), heading)
                heading = 0
            elif kind in ("bullet_list_open", "ordered_list_open"):
                start = token.attrs.get("start", 1)
                self._numbers.append(None if kind.startswith("bullet") else int(start))
            elif kind in ("bullet_list_close", "ordered_list_close"):
                self._numbers.pop()
            elif kind == "list_item_open":
                self._begin_item()
            elif kind == "tr_open":
                self._row = []
            elif kind == "tr_close":
                self._sections.add("\t".join(self._row or ()), "table")
                self._row = None
            elif kind in ("fence", "code_block"):
                self._sections.add(token.content)
            elif kind == "html_block":
                read_html(token.content, self._sections)

    def _begin_item(self) -> None:
        number = self._numbers[-1]
        if number is not None:
            self._numbers[-1] = number + 1
        self._bullet = "  " * (len(self._numbers) - 1) + ("- " if number is None else f"{number}. ")

    def _inline(self, text: str, heading: int) -> None:
        if heading:
            self.title = self.title or (one_line(text) if heading == 1 else "")
            self._sections.heading(heading, text)
        elif self._row is not None:
            self._row.append(" ".join(text.split()))
        elif self._numbers:
            indent = " " * len(self._bullet)
            self._sections.add(self._bullet + text.replace("\n", f"\n{indent}"), "list")
            self._bullet = indent
        else:
            self._sections.add(text)

    def _plain(self, content: str) -> str:
        if len(content) > LONGEST_INLINE:
            return _HTML_COMMENT.sub("", content)
        found: list[Token] = []
        self._parser.inline.parse(content, self._parser, {}, found)
        return "".join(_texts(found))


def _texts(tokens: Sequence[Token]) -> Iterator[str]:
    for token in tokens:
        if token.type in ("text", "text_special", "code_inline"):
            yield token.content
        elif token.type in ("softbreak", "hardbreak"):
            yield "\n"
        elif token.type == "image":
            yield from _texts(token.children or ())


def _conversations(text: str, tokens: Sequence[Token], sections: Sections) -> list[str]:
    """Titles of the conversations of an export, which are now sections; none when the file is no export.

    What was said is taken from the lines themselves, so a line that looks like a heading or a list stays what it is.
    """
    lines = text.split("\n")
    top = [token for token in tokens if token.level == 0 and token.map and token.nesting >= 0]
    found: list[tuple[str, list[str]]] = []
    speaker = ""
    for index, token in enumerate(top):
        begin, end = token.map or (0, 0)
        if token.tag == "h1":
            about = top[index + 1].map if index + 1 < len(top) else None
            if not about or not _ABOUT.match(lines[about[0]]):
                return []
            found.append((lines[begin].removeprefix("#").strip(), []))
            speaker = ""
        elif token.tag == "h2":
            speaker = _EXPORTED.get(lines[begin].removeprefix("##").strip(), "")
            if not speaker or not found:
                return []
        elif token.type == "blockquote_open" and speaker:
            said = "\n".join(line[2:] if line.startswith("> ") else line.lstrip(">") for line in lines[begin:end])
            found[-1][1].append(f"{speaker}: {said.strip()}")
            speaker = ""
    for title, turns in found:
        sections.cut(title)
        for turn in turns:
            sections.add(turn, "turn")
    return [title for title, turns in found if turns]


def load_markdown(path: Path, limits: Limits) -> Loaded:
    text = read_text(path, encoding_of(path)).replace("\r\n", "\n").replace("\r", "\n")
    if len(text) > 2 * limits.characters:
        raise Refusal("too_big", f"it holds more than {2 * limits.characters:,} characters", "split it into several files")
    title = ""
    if front := _FRONT_MATTER.match(text):
        stated = _FRONT_TITLE.search(front[1])
        title = one_line(stated[1]).strip("\"'") if stated else ""
        text = text[front.end() :]
    parser = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    parser.core.ruler.enableOnly(["normalize", "block"])
    tokens = parser.parse(text)
    sections = Sections(limits)
    titles = _conversations(text, tokens, sections)
    if titles:
        return Loaded(title or (titles[0] if len(titles) == 1 else path.stem), sections.end(), [])
    sections = Sections(limits)
    writer = _Writer(parser, sections)
    writer.write(tokens)
    return Loaded(title or writer.title or path.stem, sections.end(), [])
