"""The line a person writes in. Enter sends, Shift+Enter or Alt+Enter breaks the line; it grows to eight lines."""

from __future__ import annotations

from dataclasses import dataclass

from textual import events
from textual.message import Message
from textual.widgets import TextArea


class Composer(TextArea):
    """A text area whose text is taken only after the key has been handled, so that a Korean composition is never cut."""

    DEFAULT_CSS = """
    Composer { height: auto; min-height: 3; max-height: 10; margin: 0 1; }
    """

    @dataclass
    class Sent(Message):
        text: str

    async def _on_key(self, event: events.Key) -> None:
        if event.key in ("shift+enter", "alt+enter", "ctrl+j"):
            event.stop()
            event.prevent_default()
            self.insert("\n")
        elif event.key == "enter":
            event.stop()
            event.prevent_default()
            self.call_after_refresh(self._send)
        else:
            await super()._on_key(event)

    def _send(self) -> None:
        if self.text.strip():
            self.post_message(self.Sent(self.text.strip()))
