"""The chat app: the list of conversations beside the one that is open, and the windows that keys and the palette open.

`chat_app` is made by `kosent chat`, by tests and by benchmarks alike; it brings a `Backend` that knows the models.
"""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from typing import Any, ClassVar, cast

from textual import events, on, work
from textual.app import App, ComposeResult, SuspendNotSupported, SystemCommand
from textual.binding import Binding, BindingType
from textual.command import CommandPalette
from textual.containers import Horizontal
from textual.screen import Screen
from textual.widgets import Footer

from kosent.conversations import ConversationStore, Found
from kosent.errors import KosentError
from kosent.tui import keeping, keyboard, themes
from kosent.tui.backend import Backend
from kosent.tui.bubble import Bubble
from kosent.tui.facts import short
from kosent.tui.localized import Localized
from kosent.tui.models import Models, in_thread
from kosent.tui.pane import Pane
from kosent.tui.sidebar import Sidebar
from kosent.tui.texts import TEXTS, one_line

SECONDS_BETWEEN_LOOKS = 2.0
"""How often it is looked whether another window has written."""
NARROW, WIDE = 60, 100
"""Columns: below the first the list covers the conversation, from the second on it stands beside it all the time."""


BELOW = {"new", "list", "search", "messages", "models", "collections", "settings", "again", "export", "help"}
"""Actions whose keys do nothing while a window is open."""
IN_PALETTE = (
    "new", "search", "models", "collections", "settings", "again", "messages", "export", "import", "list", "safety", "help",
)  # fmt: skip


class ChatScreen(Localized[None]):
    """The screen below all windows."""

    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (NARROW, "-medium"), (WIDE, "-wide")]  # noqa: RUF012
    VERTICAL_BREAKPOINTS = [(0, "-short"), (30, "-tall")]  # noqa: RUF012


class ChatApp(App[None]):
    TITLE = "KoSent"
    CSS = """
    Screen { layers: base above; }
    #body { height: 1fr; }
    #short { display: none; }
    .-short #short { display: block; }
    .-short #long { display: none; }
    .-narrow Sidebar { width: 100%; layer: above; }
    .-narrow Dialog > .box { width: 100%; max-width: 100%; padding: 0; }
    .-short Dialog .title, .-short Dialog Input { margin-bottom: 0; }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "stop", "key_stop"),
        Binding("f2", "safety", "key_safety", priority=True),
        Binding("ctrl+p", "command_palette", "key_palette", priority=True),
        Binding("ctrl+n", "new", "key_new", priority=True),
        Binding("ctrl+b", "list", "key_list", priority=True),
        Binding("ctrl+f", "search", "key_search", priority=True),
        Binding("f1", "help", "key_help", priority=True),
        Binding("ctrl+up", "messages", "key_messages", priority=True, show=False),
        Binding("ctrl+o", "models", "key_models", priority=True, show=False),
        Binding("ctrl+l", "collections", "key_collections", priority=True, show=False),
        Binding("ctrl+t", "settings", "key_settings", priority=True, show=False),
        Binding("ctrl+r", "again", "key_again", priority=True, show=False),
        Binding("ctrl+s", "export", "key_export", priority=True, show=False),
        Binding("ctrl+home", "to_start", "key_start", show=False),
        Binding("ctrl+end", "to_end", "key_end", show=False),
        Binding("ctrl+q", "quit", "key_quit", priority=True),
    ]

    def __init__(self, backend: Backend, store: ConversationStore, *, model: str = "", lang: str = "ko") -> None:
        super().__init__()
        self.backend, self.store, self.lang, self.texts = backend, store, lang, TEXTS[lang]
        self.models = Models(backend, model, self._models_changed)
        self.deleted: list[int] = []
        """Conversations that were deleted in this window, the last one last; gone for good when it closes."""
        for theme in themes.THEMES:
            self.register_theme(theme)
        preferred = store.preference("theme", themes.DEFAULT)
        self.theme = preferred if preferred in themes.NAMES else themes.DEFAULT

    def get_default_screen(self) -> Screen[Any]:
        screen = ChatScreen(id="_default")
        screen.texts = self.texts
        return screen

    def compose(self) -> ComposeResult:
        with Horizontal(id="body"):
            yield Sidebar(self.texts)
            yield Pane(self.store, self.models, self.texts, self.lang)
        yield Footer(show_command_palette=False)

    async def on_mount(self) -> None:
        self.sidebar.display = self.size.width >= WIDE
        self.list_conversations()
        self.set_interval(SECONDS_BETWEEN_LOOKS, self._look)
        if self.store.damage is not None:
            damage = self.store.damage
            said = self.texts["damaged"].format(path=damage.moved_to, number=damage.saved_messages)
            self.notify(one_line(said), severity="warning", markup=False, timeout=60)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self.call_later, self.action_quit)
        self.call_after_refresh(self.models.load, self.models.wanted)  # after the first paint: it imports much

    @property
    def there(self) -> bool:
        """Whether there is a screen: not before the first paint, and not while the chat is being left."""
        return bool(self.screen_stack) and bool(self.screen_stack[0].query(Sidebar)) and bool(self.screen_stack[0].query(Pane))

    @property
    def pane(self) -> Pane:
        return self.screen_stack[0].query_one(Pane)

    @property
    def sidebar(self) -> Sidebar:
        return self.screen_stack[0].query_one(Sidebar)

    def copy_to_clipboard(self, text: str) -> None:
        """Of a message, or of what is marked: into the system's clipboard too, where a program for it is there."""
        super().copy_to_clipboard(text)
        self._copy(text)

    @work(thread=True, group="copy")
    def _copy(self, text: str) -> None:
        from kosent.tui.clipboard import copy

        try:
            said, severity = self.texts[copy(text)], "information"
        except OSError as error:
            said, severity = self.texts["copy_failed"].format(reason=one_line(error)), "error"
        self.call_from_thread(self.pane.say, said, severity=severity)

    def action_help_quit(self) -> None:
        self.pane.say(self.texts["quit_hint"])

    # --- models

    def _models_changed(self) -> None:
        if not self.there:
            return
        self.pane.describe()
        if self.models.loading or not self.models.nothing_there:
            self.screen_stack[0].query("#first").remove()
        elif isinstance(self.models.problem, KosentError) and not self.models.wanted:
            self._welcome()

    @work(exclusive=True, group="welcome")
    async def _welcome(self) -> None:
        from kosent.tui.welcome import Welcome

        found = await in_thread(self.backend.available)
        pane = self.pane
        await pane.query(Welcome).remove()
        if self.models.nothing_there:
            await pane.mount(Welcome(self.texts, found), before="#facts")

    async def on_welcome_wanted(self, wanted: Any) -> None:
        if wanted.what == "choose_model":
            self.action_models()
        elif wanted.what == "run_demo":
            self._run_demo()
            self.models.load("")
        else:
            self.models.load(self.models.wanted)

    def _run_demo(self) -> None:
        """Gives the terminal to `kosent demo`, which shows its own progress."""
        before = signal.signal(signal.SIGINT, lambda *_: None)  # Ctrl-C is for the demo
        try:
            with self.suspend():
                subprocess.run([sys.executable, "-m", "kosent", "demo"], check=False)
                with suppress(EOFError):
                    input(self.texts["demo_back"])
        except SuspendNotSupported:
            self.pane.say(self.texts["nothing_to_do"])
        finally:
            signal.signal(signal.SIGINT, before)

    def action_models(self) -> None:
        from kosent.tui.model_dialog import ModelDialog

        def chosen(name: str | None) -> None:
            if name:
                self.models.load(name)
                self.pane.say(self.texts["model_now"].format(model=one_line(short(name))))

        current = self.models.loaded.name if self.models.loaded else self.models.wanted
        self.push_screen(ModelDialog(self.texts, self.backend, current), chosen)

    def action_collections(self) -> None:
        from kosent.tui.collection_dialog import CollectionDialog

        def chosen(name: str | None) -> None:
            if name is not None:
                self.pane.use_collection(name)
                said = "collection_now" if name else "collection_off"
                self.pane.say(self.texts[said].format(name=one_line(name)))

        self.push_screen(CollectionDialog(self.texts, self.backend, self.pane.collection), chosen)

    # --- conversations

    def list_conversations(self, highlight: int | None = None) -> None:
        try:
            self.sidebar.show(self.store.conversations(), self.pane.conversation, highlight)
        except sqlite3.Error as error:
            self.pane.say(one_line(error), severity="error")

    async def _look(self) -> None:
        if not self.there:
            return
        with self.pane.excused():
            if self.store.changed_elsewhere():
                self.list_conversations()
                await self.pane.reload()

    def on_pane_changed(self) -> None:
        if self.there:
            self.list_conversations()

    def on_resize(self, event: events.Resize) -> None:
        """The list stands beside the conversation where there is room, and never covers what is being written."""
        if self.there:
            self.sidebar.display = event.size.width >= WIDE or self.sidebar.entries.has_focus

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Under a window nothing else is opened, asked or changed."""
        return len(self.screen_stack) <= 1 or action not in BELOW

    async def action_new(self) -> None:
        """Leaves the conversation as it is on disk and begins another."""
        await self.pane.open(None)

    @on(Sidebar.Asked)
    async def asked(self, asked: Sidebar.Asked) -> None:
        await keeping.asked(self, asked.verb, asked.conversation)

    def action_list(self) -> None:
        """Goes to the list, which comes where there is no room for it all the time; goes back, and it leaves."""
        sidebar = self.sidebar
        if sidebar.display and sidebar.entries.has_focus:
            sidebar.display = self.size.width >= WIDE
            self.pane.composer.focus()
        else:
            sidebar.display = True
            sidebar.entries.focus()

    def hide_list(self) -> None:
        """Once a conversation is chosen, where the list covers it."""
        self.sidebar.display = self.size.width >= NARROW

    def action_search(self) -> None:
        from kosent.tui.search_dialog import SearchDialog

        async def opened(found: Found | None) -> None:
            if found is not None:
                with self.pane.excused():
                    await self.pane.open(found.conversation, found.message)

        self.push_screen(SearchDialog(self.texts, self.store), opened)

    # --- the other keys

    def action_stop(self) -> None:
        self.pane.action_stop()

    async def action_again(self) -> None:
        await self.pane.again()

    def action_messages(self) -> None:
        self.pane.select_message()

    async def action_to_start(self) -> None:
        await self.pane.transcript.to_start()

    async def action_to_end(self) -> None:
        await self.pane.transcript.to_end()

    def action_settings(self) -> None:
        from kosent.tui.settings_dialog import SettingsDialog

        def saved(own: dict[str, Any] | None) -> None:
            if own is not None:
                self.pane.configure(own)
                self.pane.say(self.texts["saved"])

        self.push_screen(SettingsDialog(self.texts, self.pane.settings(), self.backend.defaults()), saved)

    def action_safety(self) -> None:
        from kosent.tui.dialogs import SafetyDialog

        if not isinstance(self.screen, SafetyDialog):
            self.push_screen(SafetyDialog(self.texts, self.lang))

    def action_help(self) -> None:
        from kosent.tui.dialogs import TextDialog
        from kosent.tui.help import key_table

        table = key_table(self.texts, (ChatApp, Bubble, Sidebar), 1 if self.size.width < NARROW else 2)
        self.push_screen(TextDialog(self.texts, self.texts["help_title"], table))

    def action_export(self) -> None:
        keeping.export(self)

    def action_import(self) -> None:
        keeping.import_file(self)

    def action_forget(self) -> None:
        keeping.forget(self)

    def action_theme(self, name: str) -> None:
        self.theme = name
        with self.pane.excused():
            self.store.prefer("theme", name)

    def action_command_palette(self) -> None:
        if self.use_command_palette and not CommandPalette.is_open(cast("App[object]", self)):
            self.push_screen(CommandPalette(placeholder=self.texts["palette_placeholder"], id="--command-palette"))

    def get_system_commands(self, screen: Screen[Any]) -> Iterator[SystemCommand]:
        texts = self.texts
        for action in IN_PALETTE:
            yield SystemCommand(texts[f"key_{action}"], keys_of(action), partial(self.run_action, action))
        for theme, name in themes.NAMES.items():
            yield SystemCommand(texts[name], texts["key_theme"], partial(self.action_theme, theme))
        yield SystemCommand(texts["key_undo"], texts["conversations"], partial(keeping.undo, self))
        yield SystemCommand(texts["forget_title"], "", self.action_forget)
        yield SystemCommand(texts["key_quit"], keys_of("quit"), self.action_quit)

    async def action_quit(self) -> None:
        await self.pane.stopped()
        self.pane.keep_draft()
        self.exit()

    def on_unmount(self) -> None:
        self.backend.close()
        if self.deleted:
            with suppress(sqlite3.Error):  # an hour later the next window tries again
                self.store.forget(self.deleted)


def keys_of(action: str) -> str:
    """The key of an action of the app as people write it: Ctrl+F."""
    found = next((one for one in ChatApp.BINDINGS if isinstance(one, Binding) and one.action == action), None)
    return "+".join(part.capitalize() for part in found.key.split("+")) if found else ""


def chat_app(backend: Backend, store: ConversationStore, *, model: str = "", lang: str = "ko") -> ChatApp:
    """The chat in the given language, "ko" or "en"; `model` as in `kosent.models`, "" for the one of the settings."""
    keyboard.prepare()
    return ChatApp(backend, store, model=model, lang=lang)
