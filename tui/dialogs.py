"""The small windows of the chat: one question, one list or one text each; Esc closes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, TypeVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Button, Footer, Input, Static

from kosent import safety
from kosent.citations import called
from kosent.text import printable
from kosent.tui.clean import CleanInput
from kosent.tui.localized import Localized
from kosent.tui.texts import Texts, one_line

Result = TypeVar("Result")


class Dialog(ModalScreen[Result], Localized[Result]):
    """A titled box in the middle; `body` says what is in it."""

    DEFAULT_CSS = """
    Dialog { align: center middle; }
    Dialog > .box {
        width: 80; max-width: 95%; height: auto; max-height: 95%; background: $surface; border: round $primary; padding: 0 1;
    }
    Dialog .title { text-style: bold; color: $accent; margin-bottom: 1; }
    Dialog .buttons { height: auto; align-horizontal: right; margin-top: 1; }
    Dialog .buttons Button { margin-left: 2; min-width: 10; }
    Dialog Input { margin-bottom: 1; }
    """

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "leave", "key_back")]

    SCROLLED: ClassVar[bool] = False
    """Whether there is nothing to do but to read, so that the keys scroll."""

    def __init__(self, texts: Texts, title: str) -> None:
        super().__init__()
        self.texts, self.heading = texts, title

    def compose(self) -> ComposeResult:
        with VerticalScroll(classes="box", can_focus=self.SCROLLED):
            yield Static(self.heading, classes="title", markup=False)
            yield from self.body()
        yield Footer(show_command_palette=False)

    def body(self) -> ComposeResult:
        raise NotImplementedError

    def buttons(self, *names: str) -> Horizontal:
        """Buttons whose ids are the names of their texts; the first one is the one that does it."""
        kinds: list[Any] = ["primary", *["default"] * (len(names) - 1)]
        return Horizontal(
            *(Button(self.texts[name], id=name, variant=kind, compact=True) for name, kind in zip(names, kinds, strict=True)),
            classes="buttons",
        )

    def action_leave(self) -> None:
        self.dismiss(None)

    @on(Button.Pressed, "#cancel,#close")
    def left(self) -> None:
        self.action_leave()


class TextDialog(Dialog[None]):
    """Something to read."""

    SCROLLED = True

    def __init__(self, texts: Texts, title: str, text: str) -> None:
        super().__init__(texts, title)
        self.text = text

    def body(self) -> ComposeResult:
        yield Static(printable(self.text), markup=False)
        yield self.buttons("close")


class SafetyDialog(TextDialog):
    """That an AI writes, and who answers the telephone at any hour."""

    def __init__(self, texts: Texts, lang: str) -> None:
        parts = (safety.CARD[lang], safety.TEXTING[lang], safety.NOTICE[lang])
        super().__init__(texts, texts["safety_title"], "\n\n".join(parts))


class PassageDialog(Dialog[None]):
    """The passages that a reply was given, each with its title and page, where in the document it stands, and the file."""

    SCROLLED = True
    DEFAULT_CSS = """
    PassageDialog .source { text-style: bold; }
    PassageDialog .place { color: $text-muted; }
    PassageDialog .passage { margin: 1 0; padding-left: 1; border-left: solid $panel-lighten-2; }
    """

    def __init__(self, citations: Sequence[dict[str, Any]], texts: Texts, lang: str) -> None:
        super().__init__(texts, texts["sources"])
        self.citations, self.lang = citations, lang

    def body(self) -> ComposeResult:
        for one in self.citations:
            name = called(one, self.lang, heading=False)
            yield Static(f"[{one['number']}] {name or self.texts['no_source']}", classes="source", markup=False)
            places = (one_line(one.get(key) or "") for key in ("heading", "source"))
            for place in dict.fromkeys(place for place in places if place not in ("", name)):
                yield Static(place, classes="place", markup=False)
            yield Static(printable(one.get("text", "")), classes="passage", markup=False)
        yield self.buttons("close")


class ConfirmDialog(Dialog[bool]):
    """A question whose answer is yes or no; the button that changes nothing has the focus."""

    def __init__(self, texts: Texts, title: str, question: str, *, yes: str) -> None:
        super().__init__(texts, title)
        self.question, self.yes = question, yes

    def body(self) -> ComposeResult:
        yield Static(printable(self.question), markup=False)
        yield self.buttons(self.yes, "cancel")

    def on_mount(self) -> None:
        self.query_one(f"#{self.yes}", Button).variant = "error"
        self.query_one("#cancel", Button).focus()

    @on(Button.Pressed)
    def pressed(self, event: Button.Pressed) -> None:
        if event.button.id == self.yes:
            self.dismiss(True)


class LineDialog(Dialog[str]):
    """One line to write."""

    def __init__(self, texts: Texts, title: str, value: str = "", *, label: str = "") -> None:
        super().__init__(texts, title)
        self.value, self.label = value, label

    def body(self) -> ComposeResult:
        if self.label:
            yield Static(self.label, markup=False)
        yield CleanInput(self.value, compact=True)
        yield self.buttons("ok", "cancel")

    @on(Input.Submitted)
    @on(Button.Pressed, "#ok")
    def accepted(self) -> None:
        value = self.query_one(Input).value.strip()
        self.dismiss(value or None)
