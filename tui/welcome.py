"""What is seen when there is no model yet: what was found, and what can be done now."""

from __future__ import annotations

from dataclasses import dataclass

from textual import on
from textual.app import ComposeResult
from textual.containers import Horizontal, VerticalScroll
from textual.message import Message
from textual.widgets import Button, Static

from kosent import extras
from kosent.available import Available
from kosent.errors import MissingExtraError
from kosent.tui.texts import Texts


class Welcome(VerticalScroll):
    DEFAULT_CSS = """
    Welcome { height: auto; max-height: 70%; padding: 1 2; border: round $accent; margin: 0 1; }
    Welcome .title { text-style: bold; color: $accent; margin-bottom: 1; }
    Welcome Horizontal { height: auto; margin-top: 1; }
    Welcome Button { margin-right: 2; }
    """

    @dataclass
    class Wanted(Message):
        """`what` is choose_model, run_demo or look_again."""

        what: str

    def __init__(self, texts: Texts, found: Available) -> None:
        super().__init__(id="first")
        self.texts, self.found = texts, found

    def compose(self) -> ComposeResult:
        yield Static(self.texts["first_title"], classes="title", markup=False)
        names = self.found.names()
        if self.found.ollama_problem:
            ollama = self.texts["first_ollama_none"]
        elif self.found.ollama:
            ollama = self.texts["first_ollama"].format(number=len(self.found.ollama))
        else:
            ollama = self.texts["first_ollama_empty"]
        yield Static(f"· {ollama}", markup=False)
        hint = demo_hint()
        demo = self.texts["first_demo_missing"].format(hint=hint) if hint else self.texts["first_demo"]
        yield Static(f"· {demo}", markup=False)
        wanted = [("choose_model", bool(names)), ("run_demo", not hint), ("look_again", True)]
        yield Horizontal(*(Button(self.texts[name], id=name, compact=True) for name, possible in wanted if possible))

    @on(Button.Pressed)
    def pressed(self, event: Button.Pressed) -> None:
        event.stop()
        self.post_message(self.Wanted(str(event.button.id)))


def demo_hint() -> str:
    """What must be installed before `kosent demo` can run; "" when nothing."""
    try:
        extras.require(*extras.DEMO, what="kosent demo")
    except MissingExtraError as error:
        return error.hint or ""
    return ""
