"""The chat app: conversation above, composer below, one line of facts at the bottom.

The model is loaded and asked in workers, so typing is never blocked. What is written is on disk before the model is asked,
and the reply while it streams (`kosent.conversations`).
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from textual import work
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.widgets import Footer, Static
from textual.worker import Worker, WorkerCancelled

from kosent import safety
from kosent.conversations import COMPLETE, FAILED, STOPPED, WRITING, ConversationStore, StoredMessage
from kosent.errors import KosentError
from kosent.tui.bubble import Bubble
from kosent.tui.composer import Composer
from kosent.tui.texts import TEXTS

if TYPE_CHECKING:
    from langchain_core.messages import BaseMessage
    from langchain_core.runnables import Runnable

SECONDS_BETWEEN_SAVES = 0.4


def _bindings(lang: str) -> list[BindingType]:
    keys = (("escape", "stop"), ("ctrl+n", "new"), ("ctrl+q", "quit"))
    return [Binding(key, action, TEXTS[lang][action], show=True, priority=True) for key, action in keys]


class ChatApp(App[None]):
    """`make_chain` is called in a worker and may take long; `model` is the name stored with new conversations."""

    TITLE = "KoSent"
    CSS = """
    #notice { color: $text-muted; padding: 0 2; height: auto; }
    #conversation { height: 1fr; padding-top: 1; }
    #status { color: $text-muted; padding: 0 2; height: 1; }
    """

    BINDINGS: ClassVar[list[BindingType]] = _bindings("ko")
    lang = "ko"

    def __init__(self, make_chain: Callable[[], Runnable[dict[str, Any], str]], store: ConversationStore, *, model: str) -> None:
        super().__init__()
        self.make_chain, self.store, self.model = make_chain, store, model
        self.texts = TEXTS[self.lang]
        self.chain: Runnable[dict[str, Any], str] | None = None
        self.load_problem: Exception | None = None
        self.loading_ended = asyncio.Event()
        self.conversation: int | None = store.latest()
        self.reply: Worker[None] | None = None

    def compose(self) -> ComposeResult:
        yield Static(f"{safety.NOTICE[self.lang]}\n{safety.HELP[self.lang]}", id="notice", markup=False)
        yield VerticalScroll(id="conversation", can_focus=False)
        yield Static(self.texts["loading"], id="status", markup=False)
        yield Composer(placeholder=self.texts["placeholder"], show_line_numbers=False, soft_wrap=True)
        yield Footer(show_command_palette=False)

    async def on_mount(self) -> None:
        self.query_one(Composer).focus()
        self.query_one("#conversation").anchor()
        await self._show_stored()
        self._begin_loading()

    async def _show_stored(self) -> None:
        box = self.query_one("#conversation", VerticalScroll)
        await box.remove_children()
        stored = self.store.messages(self.conversation) if self.conversation is not None else []
        if not stored:
            await box.mount(Static(self.texts["welcome"], id="welcome", markup=False))
        await box.mount_all([self._bubble(message) for message in stored])

    def _bubble(self, message: StoredMessage) -> Bubble:
        speaker = self.texts["you" if message.role == "user" else "reply"]
        notes = {WRITING: self.texts["cut_off"], STOPPED: self.texts["stopped"], FAILED: self.texts["failed_before"]}
        return Bubble(message.role, speaker, message.content, notes.get(message.status, ""))

    def _status(self, text: str) -> None:
        self.query_one("#status", Static).update(text)

    @work(thread=True, group="load")
    def _load(self) -> None:
        chain, problem = None, None
        try:
            chain = self.make_chain()
        except Exception as error:  # whatever a backend raises must not end the chat
            problem = error
        self.call_from_thread(self._end_loading, chain, problem)

    def _begin_loading(self) -> None:
        self.loading_ended = asyncio.Event()
        self._status(self.texts["loading"])
        self._load()

    def _end_loading(self, chain: Runnable[dict[str, Any], str] | None, problem: Exception | None) -> None:
        self.chain, self.load_problem = chain, problem
        self.loading_ended.set()
        self._status(self._explained("load_failed", problem) if problem else f"{self.texts['ready']} · {self.model}")

    def _explained(self, text: str, error: BaseException) -> str:
        explained = self.texts[text].format(reason=str(error) or type(error).__name__)
        hint = error.hint if isinstance(error, KosentError) else None
        return f"{explained}  {self.texts['try'].format(hint=hint)}" if hint else explained

    async def on_composer_sent(self, sent: Composer.Sent) -> None:
        if self.reply is not None and not self.reply.is_finished:
            self._status(self.texts["busy"])
            return
        if self.conversation is None:
            self.conversation = self.store.new(self.model)
        history = self._history()
        self.store.add(self.conversation, "user", sent.text)
        self.query_one(Composer).text = ""
        await self.query("#welcome").remove()
        box = self.query_one("#conversation", VerticalScroll)
        bubble = Bubble("assistant", self.texts["reply"])
        await box.mount(Bubble("user", self.texts["you"], sent.text), bubble)
        box.anchor()
        self.reply = self._answer(self.conversation, sent.text, history, bubble)

    def _history(self) -> list[BaseMessage]:
        """Earlier turns in which a reply followed; what was never answered is left out, so that roles alternate."""
        from langchain_core.messages import AIMessage, HumanMessage

        assert self.conversation is not None
        stored = self.store.messages(self.conversation)
        history: list[BaseMessage] = []
        for asked, answered in itertools.pairwise(stored):
            if asked.role == "user" and answered.role == "assistant" and answered.content:
                history += [HumanMessage(asked.content), AIMessage(answered.content)]
        return history

    @work(exclusive=True, group="reply")
    async def _answer(self, conversation: int, text: str, history: list[BaseMessage], bubble: Bubble) -> None:
        row = self.store.add(conversation, "assistant", "", WRITING)
        status, note = STOPPED, self.texts["stopped"]
        self._status(self.texts["writing"])
        began, saved, count = 0.0, time.monotonic(), 0
        try:
            chain = await self._ready_chain()
            began = time.monotonic()
            async for chunk in chain.astream({"message": text, "history": history}):
                await bubble.append(chunk)
                count += bool(chunk)
                if time.monotonic() - saved > SECONDS_BETWEEN_SAVES:
                    self.store.update(row, bubble.text, WRITING)
                    saved = time.monotonic()
            status, note = COMPLETE, ""
        except Exception as error:  # whatever a backend raises must not end the chat
            status, note = FAILED, self._explained("failed", error)
        finally:
            self.store.update(row, bubble.text, status)
            if self.is_running:
                await bubble.finish(note)
                speed = count / max(time.monotonic() - began, 1e-9)
                facts = self.texts["speed"].format(tokens=count, speed=speed) if count and began else self.texts["ready"]
                self._status(f"{self.model} · {facts}")

    async def _ready_chain(self) -> Runnable[dict[str, Any], str]:
        """The chain, once it is loaded; loading is tried again when it failed before."""
        if self.chain is None and self.loading_ended.is_set():
            self._begin_loading()
        await self.loading_ended.wait()
        if self.chain is None:
            assert self.load_problem is not None
            raise self.load_problem
        return self.chain

    def action_stop(self) -> None:
        if self.reply is not None and not self.reply.is_finished:
            self.reply.cancel()

    async def action_new(self) -> None:
        """Leaves the conversation as it is on disk and begins another."""
        await self._stopped()
        self.conversation = None
        await self._show_stored()
        self.query_one(Composer).focus()

    async def _stopped(self) -> None:
        self.action_stop()
        if self.reply is not None:
            try:
                await self.reply.wait()
            except WorkerCancelled:
                return

    async def action_quit(self) -> None:
        await self._stopped()
        self.exit()


class EnglishChatApp(ChatApp):
    """The same chat with an English interface."""

    BINDINGS: ClassVar[list[BindingType]] = _bindings("en")
    lang = "en"


def chat_app(
    make_chain: Callable[[], Runnable[dict[str, Any], str]], store: ConversationStore, *, model: str, lang: str = "ko"
) -> ChatApp:
    """The chat in the given language, "ko" or "en"."""
    return (EnglishChatApp if lang == "en" else ChatApp)(make_chain, store, model=model)
