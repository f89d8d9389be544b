"""The collections that are there, to choose one or none."""

from __future__ import annotations

from textual import on, work
from textual.app import ComposeResult
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from kosent import extras
from kosent.tui.backend import Backend
from kosent.tui.dialogs import Dialog
from kosent.tui.models import in_thread
from kosent.tui.texts import Texts, one_line


class CollectionDialog(Dialog[str]):
    """Gives the name of the collection that was chosen, "" for none."""

    DEFAULT_CSS = """
    CollectionDialog OptionList, CollectionDialog OptionList:focus { height: auto; max-height: 16; border: none; }
    """

    def __init__(self, texts: Texts, backend: Backend, current: str) -> None:
        super().__init__(texts, texts["collections_title"])
        self.backend, self.current = backend, current
        self.names: list[str] = []

    def body(self) -> ComposeResult:
        yield OptionList(markup=False)
        yield Static(self.texts["collections_looking"], id="hint", markup=False)

    def on_mount(self) -> None:
        self.look()

    @work(exclusive=True)
    async def look(self) -> None:
        there = await in_thread(self.backend.collections)
        gone = [self.current] if self.current and self.current not in there else []
        self.names = ["", *there, *gone] if there or gone else []
        options = self.query_one(OptionList)
        options.set_options(Option(f"{'●' if name == self.current else ' '} {self._called(name, gone)}") for name in self.names)
        options.display = bool(self.names)
        if self.names:
            options.highlighted = self.names.index(self.current)
            options.focus()
        hint = self.query_one("#hint", Static)
        hint.update("" if there else await in_thread(self._how_to_begin))
        hint.display = not there

    def _called(self, name: str, gone: list[str]) -> str:
        if not name:
            return self.texts["no_collection"]
        return self.texts["collection_gone"].format(name=one_line(name)) if name in gone else one_line(name)

    def _how_to_begin(self) -> str:
        if extras.missing("rag"):
            return self.texts["collections_missing"]
        return self.texts["collections_none"]

    @on(OptionList.OptionSelected)
    def chosen(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(self.names[event.option_index])
