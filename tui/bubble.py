"""One message of the conversation: who speaks, the text, and a note when it did not end well."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.widgets import Markdown, Static
from textual.widgets.markdown import MarkdownStream

from kosent.text import printable


class Bubble(Vertical):
    """User text is shown as it was typed; replies are Markdown that can grow while they stream."""

    DEFAULT_CSS = """
    Bubble { height: auto; margin: 0 2 1 2; }
    Bubble .speaker { color: $text-muted; }
    Bubble .note { color: $text-warning; }
    Bubble Markdown { margin: 0; padding: 0 1; }
    Bubble .words { padding: 0 1; }
    Bubble.user { border-left: thick $primary; padding-left: 1; }
    Bubble.assistant { border-left: thick $success; padding-left: 1; }
    """

    def __init__(self, role: str, speaker: str, text: str = "", note: str = "") -> None:
        super().__init__(classes=role)
        self.role, self.speaker, self.text, self.note = role, speaker, text, note
        self._stream: MarkdownStream | None = None

    def compose(self) -> ComposeResult:
        yield Static(self.speaker, classes="speaker", markup=False)
        if self.role == "user":
            yield Static(printable(self.text), classes="words", markup=False)
        else:
            yield Markdown(printable(self.text), open_links=False)
        note = Static(self.note, classes="note", markup=False)
        note.display = bool(self.note)
        yield note

    async def append(self, chunk: str) -> None:
        """Adds a piece of a reply that is being written."""
        self.text += chunk
        if self._stream is None:
            self._stream = Markdown.get_stream(self.query_one(Markdown))
        await self._stream.write(printable(chunk))

    async def finish(self, note: str = "") -> None:
        """Ends the stream and draws the whole text once more, so that nothing half-parsed stays."""
        if self._stream is not None:
            await self._stream.stop()
            self._stream = None
        if self.role == "assistant":
            await self.query_one(Markdown).update(printable(self.text))
        self.note = note
        label = self.query_one(".note", Static)
        label.update(note)
        label.display = bool(note)
