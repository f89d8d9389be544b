"""The list of conversations: the pinned first, then the newest."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.message import Message
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from kosent.conversations import Conversation
from kosent.tui.texts import Texts, one_line

MARGIN = 4
"""Columns of the list that are no room for a title."""
SHORTEST = 25
"""Columns that a title may take in any case."""


class Sidebar(Vertical):
    """Says what is wanted of which conversation; the app does it."""

    DEFAULT_CSS = """
    Sidebar { width: 30; dock: left; background: $surface; border-right: tall $panel; }
    Sidebar .heading { padding: 0 1; color: $text-muted; }
    Sidebar OptionList, Sidebar OptionList:focus { height: 1fr; border: none; background: $surface; padding: 0 0 0 1; }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("r,ㄱ", "ask('rename')", "key_rename", key_display="r"),
        Binding("p,ㅔ", "ask('pin')", "key_pin", key_display="p"),
        Binding("delete,d,ㅇ", "ask('delete')", "key_delete", key_display="d"),
        Binding("ctrl+z", "ask('undo')", "key_undo"),
    ]

    @dataclass
    class Asked(Message):
        """`verb` is open, rename, pin, delete or undo; `conversation` None only for undo."""

        verb: str
        conversation: int | None

    def __init__(self, texts: Texts) -> None:
        super().__init__(id="sidebar")
        self.texts = texts

    def compose(self) -> ComposeResult:
        yield Static(self.texts["conversations"], classes="heading", markup=False)
        yield OptionList(markup=False)

    @property
    def entries(self) -> OptionList:
        return self.query_one(OptionList)

    def show(self, conversations: Sequence[Conversation], current: int | None, highlight: int | None = None) -> None:
        """Fills the list; the highlighted one stays highlighted, or what is now in its place, where `highlight` names none."""
        before, place = highlight or self.highlighted(), self.entries.highlighted or 0
        options = [Option(self._label(one, one.id == current), id=str(one.id)) for one in conversations]
        self.entries.set_options(options or [Option(Text(self.texts["no_conversations"], style="dim"), disabled=True)])
        ids = [one.id for one in conversations]
        if ids:
            wanted = before if before in ids else current
            self.entries.highlighted = ids.index(wanted) if wanted in ids else min(place, len(ids) - 1)

    def _label(self, one: Conversation, current: bool) -> Text:
        label = Text("★ " if one.pinned else "", style="bold" if current else "")
        label.append(one_line(one.title) or self.texts["untitled"])
        label.truncate(max(self.size.width - MARGIN, SHORTEST), overflow="ellipsis")
        label.append(f"\n{when(one.touched, self.texts)}", style="dim")
        return label

    def highlighted(self) -> int | None:
        place = self.entries.highlighted
        option = self.entries.get_option_at_index(place) if place is not None and self.entries.option_count else None
        return int(option.id) if option is not None and option.id else None

    @on(OptionList.OptionSelected)
    def opened(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        self.action_ask("open")

    def action_ask(self, verb: str) -> None:
        conversation = self.highlighted()
        if conversation is not None or verb == "undo":
            self.post_message(self.Asked(verb, conversation))


def when(seconds: float, texts: Texts) -> str:
    """A time as people say it: today and yesterday with the clock, else the date."""
    then, now = time.localtime(seconds), time.localtime()
    clock = time.strftime("%H:%M", then)
    if then[:3] == now[:3]:
        return texts["today"].format(time=clock)
    if then[:3] == time.localtime(time.time() - 86400)[:3]:
        return texts["yesterday"].format(time=clock)
    return time.strftime("%Y-%m-%d", then)
