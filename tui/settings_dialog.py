"""Persona and parameters of one conversation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from textual import on
from textual.app import ComposeResult
from textual.widgets import Button, Input, Static, TextArea

from kosent.errors import UsageError
from kosent.settings import converted
from kosent.tui.backend import OWN
from kosent.tui.clean import CleanInput, CleanTextArea
from kosent.tui.dialogs import Dialog
from kosent.tui.texts import Texts


class SettingsDialog(Dialog[dict[str, Any]]):
    """Gives the settings that differ from the defaults; what is not asked for here stays as it was."""

    DEFAULT_CSS = """
    SettingsDialog TextArea { height: 6; margin-bottom: 1; }
    SettingsDialog .problem { color: $error; }
    """

    def __init__(self, texts: Texts, own: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
        super().__init__(texts, texts["settings_title"])
        self.own, self.defaults = dict(own), dict(defaults)

    def body(self) -> ComposeResult:
        yield Static(self.texts["persona"], markup=False)
        yield CleanTextArea(str(self.own.get("system", "")), placeholder=self.texts["persona_hint"], id="system")
        for name in OWN[1:]:
            yield Static(self.texts[name], markup=False)
            yield CleanInput(str(self.own.get(name, "")), placeholder=str(self.defaults[name]), id=name, compact=True)
        yield Static(classes="problem", markup=False)
        yield self.buttons("save", "cancel")

    @on(Button.Pressed, "#save")
    @on(Input.Submitted)
    def accepted(self) -> None:
        chosen = {name: value for name, value in self.own.items() if name not in OWN}
        if system := self.query_one("#system", TextArea).text.strip():
            chosen["system"] = system
        for name in OWN[1:]:
            value = self.query_one(f"#{name}", Input).value.strip()
            try:
                if value:
                    chosen[name] = converted(name, value, name)
            except UsageError:
                problem = self.texts["not_a_number"].format(name=self.texts[name], value=value)
                self.query_one(".problem", Static).update(problem)
                self.query_one(f"#{name}").focus()
                return
        self.dismiss(chosen)
