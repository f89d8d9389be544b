"""One message of the conversation: who speaks, the text, what is to be said about it, and what can be done with it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from textwrap import dedent
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.message import Message
from textual.widgets import Markdown, Static
from textual.widgets.markdown import MarkdownStream

from kosent.citations import called
from kosent.conversations import FAILED, STOPPED, WRITING, StoredMessage
from kosent.safety import CARD
from kosent.text import printable
from kosent.tui.clean import markdown_parser
from kosent.tui.texts import Texts, one_line

VERBS = {  # the second key is where the first one lies on a Korean keyboard
    "copy": "c,ㅊ",
    "code": "b,ㅠ",
    "edit": "e,ㄷ",
    "again": "r,ㄱ",
    "continue": "x,ㅌ",
    "sources": "o,ㅐ",
    "previous": "left",
    "next": "right",
}
SHOWN = {verb: keys[0] for verb, keys in VERBS.items() if "," in keys}
"""The key as the footer shows it, where there are two."""
_FENCED = re.compile(r"^[ \t>]*(`{3,}|~{3,})[^\n`]*\n(.*?)(?:^[ \t>]*\1[ \t]*$|\Z)", re.MULTILINE | re.DOTALL)


class Actions(Static):
    """What the mouse can do with a message; shown while it is pointed at or selected."""

    def action_verb(self, verb: str) -> None:
        assert isinstance(self.parent, Bubble)
        self.parent.action_do(verb)


class Bubble(Vertical, can_focus=True):
    """User text is shown as it was typed; replies are Markdown that can grow while they stream."""

    DEFAULT_CSS = """
    Bubble { height: auto; margin: 0 1 0 1; padding-left: 1; border-left: thick $panel; }
    Bubble .speaker { color: $text-muted; }
    Bubble .note { color: $text-warning; }
    Bubble .card { background: $panel; color: $text; padding: 0 1; margin: 0 1 1 0; }
    Bubble Markdown { margin: 0; padding: 0 1 0 0; }
    Bubble Markdown > :last-child { margin-bottom: 0; }
    Bubble .sources { color: $text-muted; }
    Bubble Actions { height: 1; visibility: hidden; }
    Bubble:focus Actions, Bubble.-pointed Actions { visibility: visible; }
    Bubble.user { border-left: thick $primary; }
    Bubble.assistant { border-left: thick $success; }
    Bubble:focus { border-left: thick $accent; background: $surface; }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        *(Binding(keys, f"do('{verb}')", f"key_{verb}", key_display=SHOWN.get(verb)) for verb, keys in VERBS.items()),
        Binding("enter", "do('copy')", show=False),
        Binding("up", "go(-1)", show=False),
        Binding("down", "go(1)", show=False),
    ]

    @dataclass
    class Asked(Message):
        """Something is to be done with this message: a key of `VERBS`."""

        of: Bubble
        verb: str

    @dataclass
    class Left(Message):
        """The arrow keys want the message before (-1) or after (1) this one."""

        of: Bubble
        step: int

    def __init__(self, message: StoredMessage, texts: Texts, lang: str, *, live: bool = False, problem: str = "") -> None:
        super().__init__(classes=message.role)
        self.message, self.texts, self.lang, self.live, self.problem = message, texts, lang, live, problem
        self._stream: MarkdownStream | None = None
        self._shown = ""

    @property
    def text(self) -> str:
        return self.message.content

    def compose(self) -> ComposeResult:
        yield Static(classes="speaker", markup=False)
        if self.message.role == "user":
            yield Static(printable(self.text), classes="words", markup=False)
        else:
            yield Static(CARD[self.lang], classes="card", markup=False)
            yield Markdown(printable(self.text), open_links=False, parser_factory=markdown_parser)
            yield Static(classes="sources", markup=False)
        yield Static(classes="note", markup=False)
        yield Actions(classes="actions")

    def on_mount(self) -> None:
        self._shown = printable(self.text)
        self._describe()

    def on_enter(self) -> None:
        self.set_class(True, "-pointed")

    def on_leave(self) -> None:
        self.set_class(self.is_mouse_over, "-pointed")

    def note(self) -> str:
        """What is to be said about how the message came to be, one thing a line."""
        facts, lines = self.message.facts, []
        reason = self.problem or one_line(facts.get("problem", ""))
        if not self.live:
            if self.message.status == WRITING or facts.get("cut_off"):
                lines.append(self.texts["cut_off"])
            elif self.message.status == FAILED or (reason and self.message.status == STOPPED):
                lines.append(self.texts["failed"].format(reason=reason) if reason else self.texts["failed_before"])
            elif self.message.status == STOPPED:
                lines.append(self.texts["stopped"])
            elif facts.get("finish_reason") == "length":
                lines.append(self.texts["length"])
            if self.problem and not lines:
                lines.append(self.problem)
        if facts.get("replaced"):
            lines.append(self.texts["replaced"].format(number=facts["replaced"]))
        if facts.get("dropped_turns"):
            lines.append(self.texts["dropped"].format(number=facts["dropped_turns"]))
        return "\n".join(lines)

    def can(self, verb: str) -> bool:
        """Whether it makes sense for this message."""
        user, versions = self.message.role == "user", self.message.versions
        if self.live:
            return verb == "copy"
        place = versions.index(self.message.id) if self.message.id in versions else 0
        return {
            "copy": bool(self.text),
            "code": bool(code_of(self.text)),
            "edit": user,
            "again": not user and self.message.parent is not None,
            "continue": not user and self.message.parent is not None and bool(self.text.strip()) and self.unfinished,
            "sources": bool(self.message.facts.get("citations")),
            "previous": place > 0,
            "next": place < len(versions) - 1,
        }.get(verb, True)

    @property
    def unfinished(self) -> bool:
        return self.message.status in (STOPPED, WRITING, FAILED) or self.message.facts.get("finish_reason") == "length"

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        return self.can(str(parameters[0])) if action == "do" else True

    def action_do(self, verb: str) -> None:
        self.post_message(self.Asked(self, verb))

    def action_go(self, step: int) -> None:
        self.post_message(self.Left(self, step))

    def _describe(self) -> None:
        """Everything but the text itself."""
        message, versions = self.message, self.message.versions
        place = f"  ‹ {versions.index(message.id) + 1}/{len(versions)} ›" if len(versions) > 1 and message.id in versions else ""
        who = self.texts["you" if message.role == "user" else "reply"]
        self.query_one(".speaker", Static).update(who + place)
        self._line(".note", self.note())
        if message.role == "assistant":
            self.query_one(".card").display = bool(message.facts.get("card"))
            cited = message.facts.get("citations") or []
            self._line(".sources", self._sources(cited) if cited else "")
        verbs = [verb for verb in VERBS if self.can(verb)]
        labels = [f"[@click=verb('{verb}')]{self.texts[f'key_{verb}']}[/]" for verb in verbs]
        if self.has_focus:  # the footer is made anew, which is for nothing while it shows other keys
            self.refresh_bindings()
        self.query_one(Actions).update(Content.from_markup(" · ".join(labels)))

    def _sources(self, cited: list[dict[str, Any]]) -> str:
        names = [f"[{one['number']}] {called(one, self.lang) or self.texts['no_source']}" for one in cited]
        return f"{self.texts['sources']}: {'  '.join(names)}"

    def _line(self, selector: str, text: str) -> None:
        line = self.query_one(selector, Static)
        line.update(text)
        line.display = bool(text)

    async def on_unmount(self) -> None:
        if self._stream is not None:
            await self._stream.stop()

    async def become(self, message: StoredMessage, *, live: bool, problem: str = "") -> None:
        """Shows what the message has become. While it is `live` only what is new is drawn; at the end the whole text once more,
        so that nothing half-parsed stays."""
        described = (self.message.facts, self.live, self.problem) != (message.facts, live, problem)
        self.message, self.live, self.problem = message, live, problem
        text = printable(message.content)
        if message.role == "assistant":
            markdown = self.query_one(Markdown)
            if live and text.startswith(self._shown):
                if self._stream is None:
                    self._stream = Markdown.get_stream(markdown)
                await self._stream.write(text[len(self._shown) :])
            else:
                if self._stream is not None:
                    await self._stream.stop()
                    self._stream = None
                await markdown.update(text)
            self._shown = text
        if described:
            self._describe()


def code_of(text: str) -> str:
    """What stands between fences in a Markdown text, blocks separated by an empty line."""
    return "\n\n".join(dedent(block).rstrip("\n") for _, block in _FENCED.findall(printable(text)))
