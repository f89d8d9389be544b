"""The line a person writes in: Enter sends, Shift+Enter or Alt+Enter breaks the line; it grows to eight lines.

Nothing here changes the text while a Korean syllable may still be composed: it is taken a moment after Enter, because some
terminals hand over the last syllable only then, and cleaned only when it is pasted or sent.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import TextArea

from kosent.text import printable

SECONDS_FOR_LAST_SYLLABLE = 0.05


class Composer(TextArea):
    DEFAULT_CSS = """
    Composer { height: auto; min-height: 3; max-height: 10; margin: 0 1; }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "send", "key_send"),
        Binding("shift+enter,alt+enter,ctrl+j", "newline", "key_newline", show=False),
    ]

    @dataclass
    class Sent(Message):
        text: str

    @dataclass
    class Scrolled(Message):
        """The conversation is to be scrolled by so many pages."""

        pages: int

    async def _on_key(self, event: events.Key) -> None:
        keys = {"enter": self.action_send, "shift+enter": self.action_newline, "alt+enter": self.action_newline}
        keys |= {"ctrl+j": self.action_newline, "pageup": lambda: self._scroll(-1), "pagedown": lambda: self._scroll(1)}
        if event.key in keys:
            event.stop()
            event.prevent_default()
            keys[event.key]()
        else:
            await super()._on_key(event)

    async def _on_paste(self, event: events.Paste) -> None:
        event.text = composed(event.text)  # TextArea's own handler comes after this one

    def _scroll(self, pages: int) -> None:
        self.post_message(self.Scrolled(pages))

    def action_newline(self) -> None:
        self.insert("\n")

    def action_send(self) -> None:
        self.set_timer(SECONDS_FOR_LAST_SYLLABLE, self._send)

    def _send(self) -> None:
        text = composed(self.text).strip()
        if text:
            self.post_message(self.Sent(text))


def composed(text: str) -> str:
    """NFC and without control characters: how text from elsewhere, a Mac's file names for one, is taken in."""
    return unicodedata.normalize("NFC", printable(text))
