"""Search in all conversations, while one types."""

from __future__ import annotations

import sqlite3

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from kosent.conversations import ConversationStore, Found
from kosent.tui.clean import CleanInput
from kosent.tui.dialogs import Dialog
from kosent.tui.sidebar import when
from kosent.tui.texts import Texts, one_line


class SearchDialog(Dialog[Found]):
    """Gives the message that was chosen."""

    DEFAULT_CSS = """
    SearchDialog > .box { height: 90%; }
    SearchDialog OptionList, SearchDialog OptionList:focus { height: 1fr; border: none; }
    """

    def __init__(self, texts: Texts, store: ConversationStore) -> None:
        super().__init__(texts, texts["search_title"])
        self.store = store
        self.found: list[Found] = []

    def body(self) -> ComposeResult:
        yield CleanInput(placeholder=self.texts["search_placeholder"], compact=True)
        yield Static(self.texts["search_hint"], id="hint", markup=False)
        yield OptionList(markup=False)

    def on_mount(self) -> None:
        self.query_one(Input).focus()

    @on(Input.Changed)
    def searched(self, event: Input.Changed) -> None:
        try:
            self.found = self.store.search(event.value)
        except sqlite3.Error as error:
            self.found = []
            self.notify(one_line(error), severity="error", markup=False)
        nothing = self.texts["search_none" if event.value.strip() else "search_hint"]
        hint = self.query_one("#hint", Static)
        hint.update(nothing)
        hint.display = not self.found
        self.query_one(OptionList).set_options([Option(self._label(one), id=str(one.message)) for one in self.found])
        if self.found:
            self.query_one(OptionList).highlighted = 0

    def _label(self, one: Found) -> Text:
        who = self.texts["you" if one.role == "user" else "reply"]
        label = Text(one_line(one.title), style="dim", no_wrap=True, overflow="ellipsis", end="")
        label.append(f" · {when(one.written, self.texts)}\n")
        label.append(f"{who}: ", style="not dim")
        label.append(printable_part(one.before), style="not dim")
        label.append(printable_part(one.match), style="not dim bold reverse")
        label.append(printable_part(one.after), style="not dim")
        return label

    def key_down(self) -> None:
        self.query_one(OptionList).focus()

    @on(Input.Submitted)
    def first(self) -> None:
        place = self.query_one(OptionList).highlighted
        if place is not None and self.found:
            self.dismiss(self.found[place])

    @on(OptionList.OptionSelected)
    def chosen(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(self.found[event.option_index])


def printable_part(text: str) -> str:
    """Like `one_line`, but the spaces at both ends stay: the parts of a line are put side by side."""
    left, right = len(text) - len(text.lstrip()), len(text) - len(text.rstrip())
    return " " * bool(left) + one_line(text) + " " * bool(right and text.strip())
