"""A citation as it is kept and as it is called: the passage and where it stands, without anything that a terminal would obey."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kosent.text import printable

if TYPE_CHECKING:
    from kosent.reply import Citation

PLACE = ("title", "heading", "page", "start", "end", "collection")
"""What is kept of a retriever's metadata, besides the source."""
LONGEST = 60
"""Letters of a title or a heading on a line."""
PAGE = {"ko": "{page}쪽", "en": "p. {page}"}


def kept(citation: Citation) -> dict[str, Any]:
    """Number, text, source and what is known of `PLACE`, for the store and for `kosent ask --json`."""
    known = {name: citation.metadata.get(name) for name in PLACE}
    place = {
        name: printable(value) if isinstance(value, str) else value
        for name, value in known.items()
        if isinstance(value, str | int) and value != ""
    }
    return {"number": citation.number, "text": printable(citation.text), "source": printable(citation.source), **place}


def called(one: Mapping[str, Any], lang: str, *, heading: bool = True) -> str:
    """What a citation as `kept` is called on a line, "" where nothing is known: its title, page and the last of its headings;
    without a title, its source."""
    title = _short(one.get("title")) or _line(one.get("source"))
    page = _short(one.get("page"))
    name = ", ".join(filter(None, (title, PAGE[lang].format(page=page) if page else "")))
    last = _short(str(one.get("heading") or "").rpartition(" > ")[2]) if heading else ""
    return " · ".join(filter(None, (name, last if last != title else "")))


def _short(text: Any) -> str:
    line = _line(text)
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 1]}…"


def _line(text: Any) -> str:
    return " ".join(printable(str("" if text is None else text)).split())
