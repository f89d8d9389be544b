"""Writing conversations to a file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from textual import on
from textual.app import ComposeResult
from textual.widgets import Button, Checkbox, Input, RadioButton, RadioSet, Static

from kosent.conversations.exchange import Form
from kosent.tui.clean import CleanInput
from kosent.tui.dialogs import Dialog
from kosent.tui.texts import Texts


@dataclass(frozen=True)
class Wanted:
    form: Form
    everything: bool
    masked: bool
    path: str


class ExportDialog(Dialog[Wanted]):
    """`name_for(form, everything)` proposes where to write; a name that was changed by hand stays."""

    DEFAULT_CSS = """
    ExportDialog RadioSet { margin-bottom: 1; }
    ExportDialog Checkbox { margin-bottom: 1; }
    """

    def __init__(self, texts: Texts, name_for: Callable[[Form, bool], str]) -> None:
        super().__init__(texts, texts["export_title"])
        self.name_for = name_for
        self._proposed = name_for("markdown", False)

    def body(self) -> ComposeResult:
        yield Static(self.texts["form"], markup=False)
        yield RadioSet(
            RadioButton(self.texts["markdown"], True, id="markdown"),
            RadioButton(self.texts["jsonl"], id="jsonl"),
            id="form",
            compact=True,
        )
        yield Static(self.texts["which"], markup=False)
        yield RadioSet(
            RadioButton(self.texts["this_one"], True, id="this_one"),
            RadioButton(self.texts["all_of_them"], id="all_of_them"),
            id="which",
            compact=True,
        )
        yield Checkbox(self.texts["mask"], id="mask", compact=True)
        yield Static(self.texts["path"], markup=False)
        yield CleanInput(self._proposed, id="path", compact=True)
        yield self.buttons("save", "cancel")

    def _wanted(self) -> Wanted:
        form, which = (self.query_one(f"#{name}", RadioSet).pressed_button for name in ("form", "which"))
        return Wanted(
            "jsonl" if form is not None and form.id == "jsonl" else "markdown",
            which is not None and which.id == "all_of_them",
            self.query_one("#mask", Checkbox).value,
            self.query_one("#path", Input).value.strip(),
        )

    @on(RadioSet.Changed)
    def propose(self) -> None:
        wanted = self._wanted()
        if wanted.path == self._proposed:
            self._proposed = self.name_for(wanted.form, wanted.everything)
            self.query_one("#path", Input).value = self._proposed

    @on(Button.Pressed, "#save")
    @on(Input.Submitted)
    def accepted(self) -> None:
        if (wanted := self._wanted()).path:
            self.dismiss(wanted)
