"""Widgets and Markdown that show nothing a terminal would obey, also where the text is made after it was cleaned or pasted in."""

from __future__ import annotations

from collections.abc import Sequence

from markdown_it import MarkdownIt
from markdown_it.rules_core import StateCore
from markdown_it.token import Token
from textual import events
from textual.widgets import Input, TextArea

from kosent.text import printable


def markdown_parser() -> MarkdownIt:
    """Textual's Markdown parser; what becomes of `%1B`, `&#x202e;` and the like in links and entities is cleaned as well."""
    parser = MarkdownIt("gfm-like")
    parser.core.ruler.push("printable", _clean)
    return parser


def _clean(state: StateCore) -> None:
    _clean_tokens(state.tokens)


def _clean_tokens(tokens: Sequence[Token]) -> None:
    for token in tokens:
        token.content = printable(token.content)
        _clean_tokens(token.children or [])


class CleanInput(Input):
    """An input whose value and pasted text are cleaned."""

    def __init__(self, value: str = "", **options: object) -> None:
        super().__init__(printable(value), **options)  # type: ignore[arg-type]

    def _on_paste(self, event: events.Paste) -> None:
        event.text = printable(event.text)  # Input's own handler comes after this one


class CleanTextArea(TextArea):
    """A text area whose text and pasted text are cleaned."""

    def __init__(self, text: str = "", **options: object) -> None:
        super().__init__(printable(text), **options)  # type: ignore[arg-type]

    async def _on_paste(self, event: events.Paste) -> None:
        event.text = printable(event.text)  # TextArea's own handler comes after this one
