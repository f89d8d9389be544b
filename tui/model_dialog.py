"""The models that are there, to choose one."""

from __future__ import annotations

from textual import on, work
from textual.app import ComposeResult
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from kosent.tui.backend import Backend
from kosent.tui.dialogs import Dialog
from kosent.tui.models import in_thread
from kosent.tui.texts import Texts, one_line


class ModelDialog(Dialog[str]):
    """Gives the name of the model that was chosen, as a user types it."""

    DEFAULT_CSS = """
    ModelDialog OptionList, ModelDialog OptionList:focus { height: auto; max-height: 16; border: none; }
    """

    def __init__(self, texts: Texts, backend: Backend, current: str) -> None:
        super().__init__(texts, texts["models_title"])
        self.backend, self.current = backend, current
        self.names: list[str] = []

    def body(self) -> ComposeResult:
        yield OptionList(markup=False)
        yield Static(self.texts["models_looking"], id="hint", markup=False)

    def on_mount(self) -> None:
        self.look()

    @work(exclusive=True)
    async def look(self) -> None:
        found = await in_thread(self.backend.available)
        self.names = found.names()
        options = [Option(f"{'●' if name == self.current else ' '} {one_line(name)}") for name in self.names]
        self.query_one(OptionList).set_options(options)
        if self.names:
            self.query_one(OptionList).highlighted = self.names.index(self.current) if self.current in self.names else 0
            self.query_one(OptionList).focus()
        hints = [self.texts["ollama_down"]] if found.ollama_problem else []
        hints += [f"{url}: {one_line(said)}" for url, said in found.servers.items() if isinstance(said, str)]
        if not self.names:
            hints = [self.texts["models_none"].format(hint=" ".join(hints))]
        hint = self.query_one("#hint", Static)
        hint.update("\n".join(hints))
        hint.display = bool(hints)

    @on(OptionList.OptionSelected)
    def chosen(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(self.names[event.option_index])
