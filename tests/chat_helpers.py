"""What the tests of the chat share."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from pydantic import Field
from textual.pilot import Pilot

from kosent.conversations import ConversationStore
from kosent.tui.app import ChatApp, chat_app
from kosent.tui.bubble import Bubble
from kosent.tui.composer import Composer, composed
from kosent.tui.dialogs import Dialog
from kosent.tui.testing import ScriptedBackend


class Shelf(BaseRetriever):
    """Finds the same documents whatever is asked."""

    documents: list[Document] = Field(default_factory=list)

    def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
        return self.documents


@asynccontextmanager
async def opened(
    store: ConversationStore,
    *replies: object,
    delay: float = 0.0,
    lang: str = "ko",
    backend: ScriptedBackend | None = None,
    model: str = "",
    size: tuple[int, int] = (120, 40),
) -> AsyncIterator[tuple[ChatApp, Pilot[Any]]]:
    """The chat, running without a terminal."""
    chat = chat_app(backend or ScriptedBackend(*replies, delay=delay), store, model=model, lang=lang)
    async with chat.run_test(size=size) as pilot:
        await pilot.pause()
        yield chat, pilot


async def until(pilot: Pilot[Any], holds: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "waited too long"
        await pilot.pause(0.02)


def bubbles(chat: ChatApp) -> list[tuple[str, str, str]]:
    return [(one.message.role, one.text, one.note()) for one in chat.query(Bubble)]


async def say(pilot: Pilot[Any], text: str) -> None:
    """Writes and sends; waits until it stands among the messages, or until something is said about it."""
    pilot.app.query_one(Composer).insert(text)
    await pilot.press("enter")
    sent = composed(text).strip()
    await until(pilot, lambda: any(one.text.endswith(sent) for one in pilot.app.query(Bubble)) or bool(pilot.app._notifications))
    await until(pilot, lambda: bool(pilot.app.query("Bubble.assistant")) or bool(pilot.app._notifications))


def finished(chat: ChatApp) -> Callable[[], bool]:
    """Whether the last message is a reply that has ended."""

    def holds() -> bool:
        last = chat.query(Bubble)
        return not chat.pane.busy and bool(last) and last.last().message.role == "assistant" and not last.last().live

    return holds


def notices(chat: ChatApp) -> str:
    """All that was said at the edge of the screen."""
    return "\n".join(one.message for one in chat._notifications)


def stored(store: ConversationStore) -> list[tuple[str, str]]:
    """Texts and statuses of the conversation that was written to last."""
    return [(one.content, one.status) for one in store.messages(store.latest() or 0)]


async def window(pilot: Pilot[Any], kind: type[Dialog[Any]]) -> Any:
    await until(pilot, lambda: isinstance(pilot.app.screen, kind) and pilot.app.screen.is_mounted)
    await pilot.pause()
    return pilot.app.screen


async def closed(pilot: Pilot[Any]) -> None:
    await until(pilot, lambda: len(pilot.app.screen_stack) == 1)
