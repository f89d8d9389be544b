"""The chat in a process of its own, for test_terminal.py: it goes from place to place, where hostile or harmless texts are shown.

    python terminal_chat.py hostile PLACE...       writes MARK and the name of each place to the terminal when it leaves it

It needs a terminal, KOSENT_HOME and `tests` on PYTHONPATH.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from langchain_core.documents import Document
from langchain_core.outputs import ChatGenerationChunk
from langchain_core.retrievers import BaseRetriever
from textual import events
from textual.pilot import Pilot
from textual.widgets import Input

from kosent.available import Available
from kosent.conversations import FAILED, ConversationStore
from kosent.errors import BackendError, DataError, InterruptedReplyError, ModelError
from kosent.testing import ScriptedChat
from kosent.tui.app import chat_app
from kosent.tui.bubble import Bubble
from kosent.tui.collection_dialog import CollectionDialog
from kosent.tui.composer import Composer
from kosent.tui.dialogs import Dialog
from kosent.tui.model_dialog import ModelDialog
from kosent.tui.testing import ScriptedBackend, ScriptedCollections
from terminals import HALVES, LINE, MARK, TEXTS

GROUP = 10
"""Texts in one conversation."""
SHORT = 400
"""Characters of a text that is not shown at every place."""
PLACED = ("text", "source", "title", "heading", "page")
"""What a citation says of itself."""


class Pieces(ScriptedChat):
    """Short replies character by character, long ones in larger pieces."""

    def _stream(self, *arguments: Any, **options: Any) -> Iterator[ChatGenerationChunk]:
        reply = self.replies[0]
        size = max(1, len(reply) // 30) if isinstance(reply, str) else 1
        given = super()._stream(*arguments, **options)
        while some := list(islice(given, size)):
            whole = some[0]
            for more in some[1:]:
                whole += more
            yield whole


class Shelf(BaseRetriever):
    """Everything, for a question that asks for it."""

    texts: list[str]

    def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
        return [Document(text, metadata=dict.fromkeys(PLACED[1:], text)) for text in self.texts] if "인용" in query else []


class Tour:
    def __init__(self, kind: str, visits: list[str]) -> None:
        self.texts, self.line, self.visits = TEXTS[kind], LINE[kind], visits
        self.short = [text for text in self.texts if len(text) < SHORT]
        self.together = "\n\n".join(self.short)
        self.groups: list[int] = []
        self.store = ConversationStore()
        names = tuple(self.texts)
        there = Available("", names, self.together, {"http://안녕": self.together, "http://여기": names}, (Path(self.line),))
        problem = ModelError(self.together, hint=self.together)
        collections = ScriptedCollections(dict.fromkeys(self.short, DataError(self.together, hint=self.together)))
        self.backend = ScriptedBackend(
            retriever=Shelf(texts=self.texts), collections=collections, there=there, problems=(problem,)
        )
        self.backend.model = Pieces(replies=["안녕하세요."])
        self._fill()
        self.chat = chat_app(self.backend, self.store)

    def _fill(self) -> None:
        """Conversations called by the texts, and some whose messages they are."""
        for start in range(0, len(self.texts), GROUP):
            some = self.texts[start : start + GROUP]
            self.groups.append(self.store.new(some[0], {"system": "\n".join(some)}, title="모음"))
            for text in some:
                self.store.add(self.groups[-1], "user", text)
                facts = {"problem": text, "model": text, "citations": [{"number": 1, **dict.fromkeys(PLACED, text)}]}
                self.store.add(self.groups[-1], "assistant", text, FAILED, facts=facts | {"seconds": 1.0, "first_token": 0.5})
        for text in self.texts:
            self.store.add(self.store.new(text, title=text), "user", f"이름 {text}")
        self.store.prefer("draft", "\n".join(self.short[:8]))

    def run(self) -> None:
        self.chat.run(auto_pilot=self._guide)
        self.store.close()

    async def _guide(self, pilot: Pilot[Any]) -> None:
        assert self.chat._driver is not None
        for name in dict.fromkeys(["draft_and_problem", *self.visits]):
            await PLACES[name](self)
            await self.settle()
            self.chat._driver.write(f"{MARK}{name}\n")
        self.chat.simulate_key("ctrl+q")

    async def settle(self) -> None:
        """Until what was asked for is on the screen."""
        for _ in range(3):
            drawn = asyncio.Event()
            self.chat.screen.call_after_refresh(drawn.set)
            async with asyncio.timeout(30):
                while not drawn.is_set():
                    assert self.chat._exception is None
                    await asyncio.sleep(0.002)

    async def until(self, holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not holds():
            assert time.monotonic() < deadline, "waited too long"
            await asyncio.sleep(0.02)
        await self.settle()

    async def press(self, *keys: str) -> None:
        for key in keys:
            self.chat.simulate_key(key)
            await self.settle()

    async def paste(self, text: str) -> None:
        self.chat.post_message(events.Paste(text))
        await self.settle()

    async def opened(self, key: str) -> None:
        """Presses a key that opens a window, which must be there then."""
        self.chat.simulate_key(key)
        await self.until(lambda: isinstance(self.chat.screen, Dialog))

    async def closed(self, key: str) -> None:
        self.chat.simulate_key(key)
        await self.until(lambda: len(self.chat.screen_stack) == 1)

    async def open(self, group: int) -> None:
        await self.chat.pane.open(group)
        await self.settle()

    async def ask(self, text: str, reply: Any) -> None:
        self.backend.model.replies, asked = [reply], len(self.backend.model.asked)
        self.chat.query_one(Composer).focus()
        await self.paste(text)
        self.chat.simulate_key("enter")
        await self.until(lambda: len(self.backend.model.asked) > asked and not self.chat.pane.busy)


async def draft_and_problem(tour: Tour) -> None:
    """What had been written, and why no model could be loaded."""
    await tour.until(lambda: tour.chat.models.problem is not None)
    tour.chat.models.load("")
    await tour.until(lambda: tour.chat.models.loaded is not None)
    tour.chat.query_one(Composer).text = ""


async def list_of_conversations(tour: Tour) -> None:
    await tour.press("ctrl+b", *["pagedown"] * 4, "ctrl+b")


async def stored_messages(tour: Tour) -> None:
    for group in tour.groups:
        await tour.open(group)
        transcript = tour.chat.pane.transcript
        while transcript.scroll_y > 0:
            transcript.scroll_page_up(animate=False)
            await tour.settle()


async def edited_messages(tour: Tour) -> None:
    messages = [one for group in tour.groups for one in tour.store.messages(group) if one.role == "user"]
    await tour.open(tour.groups[0])
    await tour.press("ctrl+up", "up", "e", "escape", "ctrl+n")
    for message in messages:
        if len(message.content) < SHORT:
            tour.chat.pane._edit(message)
            await tour.settle()
    await tour.press("escape")


async def passages(tour: Tour) -> None:
    await tour.press("ctrl+n")
    await tour.ask("인용해 줘", "안녕하세요.")
    await tour.press("ctrl+up")
    await tour.opened("o")
    while tour.chat.screen.query_one(".box").scroll_y < tour.chat.screen.query_one(".box").max_scroll_y:
        await tour.press("pagedown")
    await tour.closed("escape")


async def found_messages(tour: Tour) -> None:
    for words in ("이름", "끝"):
        await tour.opened("ctrl+f")
        await tour.paste(words)
        await tour.press("down", *["pagedown"] * 5)
        await tour.closed("escape")


async def lines_pasted_into(tour: Tour) -> None:
    await tour.opened("ctrl+f")
    for text in tour.short:
        tour.chat.screen.query_one(Input).value = ""
        await tour.paste(text)
    await tour.closed("escape")


async def messages_pasted(tour: Tour) -> None:
    await tour.press("ctrl+n")
    for text in tour.short:
        tour.chat.query_one(Composer).text = ""
        await tour.paste(text)
    tour.chat.query_one(Composer).text = ""


async def names_of_conversations(tour: Tour) -> None:
    await tour.press("ctrl+n", "ctrl+b", "home")
    for _ in range(5):
        await tour.opened("r")
        await tour.closed("escape")
        await tour.press("down")
    await tour.opened("r")
    await tour.paste(tour.line)
    await tour.closed("enter")
    await tour.press("ctrl+b")


async def deleted_and_restored(tour: Tour) -> None:
    await tour.press("ctrl+n", "ctrl+b", "home")
    for _ in range(4):
        await tour.press("d", "ctrl+z", "down", "down")
    await tour.press("ctrl+b")


async def settings(tour: Tour) -> None:
    await tour.press("ctrl+n")
    tour.chat.pane.unsaved = {"system": tour.together}
    await tour.opened("ctrl+t")
    await tour.press("ctrl+home", *["pagedown"] * 25, "tab")
    await tour.paste(tour.line)
    await tour.press("enter")
    await tour.closed("escape")


async def models(tour: Tour) -> None:
    await tour.press("ctrl+n")
    await tour.opened("ctrl+o")
    await tour.until(lambda: isinstance(tour.chat.screen, ModelDialog) and bool(tour.chat.screen.names))
    await tour.press(*["pagedown"] * 10)
    await tour.closed("enter")
    await tour.until(lambda: tour.chat.models.loaded is not None and not tour.chat.models.loading)


async def collections(tour: Tour) -> None:
    """Their names, as somebody wrote them into the files; one that cannot be used, when it is chosen and in a reply."""
    await tour.press("ctrl+n")
    await tour.opened("ctrl+l")
    await tour.until(lambda: isinstance(tour.chat.screen, CollectionDialog) and bool(tour.chat.screen.names))
    await tour.press(*["pagedown"] * 10)
    await tour.closed("enter")
    await tour.until(lambda: any(one.severity == "error" for one in tour.chat._notifications))
    tour.chat.query_one(Composer).focus()
    await tour.paste("안녕")
    tour.chat.simulate_key("enter")
    await tour.until(lambda: bool(tour.chat.query(Bubble)) and not tour.chat.pane.busy)
    tour.chat.pane.use_collection("")
    await tour.settle()


async def files(tour: Tour) -> None:
    """In a folder with a hostile name: written, refused because it is there already, and one that cannot be read in."""
    await tour.press("ctrl+n")
    await tour.ask("안녕", "안녕하세요.")
    folder = tour.store.path.parent / tour.line
    folder.mkdir()
    os.chdir(folder)
    for _ in range(2):
        await tour.opened("ctrl+s")
        tour.chat.screen.query_one("#path", Input).focus()
        await tour.closed("enter")
    tour.chat.action_import()
    await tour.settle()
    await tour.paste(tour.line)
    await tour.closed("enter")
    tour.chat.action_forget()
    await tour.settle()
    await tour.closed("escape")


async def replies(tour: Tour) -> None:
    for start in range(0, len(tour.short), 4):
        await tour.press("ctrl+n")
        text = "\n\n".join(tour.short[start : start + 4])
        await tour.ask(text, text)


async def halves(tour: Tour) -> None:
    """What JSON can hold and neither UTF-8 nor a file of conversations can, in replies that are stored while they stream."""
    await tour.press("ctrl+n")
    tour.backend.model.delay = 0.02
    tour.backend.retriever = Shelf(texts=["안녕\ud83d 하세요"])
    await tour.ask("안녕", HALVES)
    await tour.ask("인용해 줘", "안녕하세요. 이 답은 조금 천천히 끝나요. 그래서 쓰는 동안에도 저장돼요.")


async def errors(tour: Tour) -> None:
    await tour.press("ctrl+n")
    await tour.ask("안녕", BackendError(tour.together, hint=tour.together))
    await tour.ask("안녕", InterruptedReplyError(tour.together, text="", hint=tour.together))


async def copied(tour: Tour) -> None:
    await tour.press("ctrl+n")
    await tour.ask("안녕", tour.together)
    await tour.press("ctrl+up", "c")
    await tour.until(lambda: all(worker.is_finished for worker in tour.chat.workers if worker.group == "copy"))


PLACES: dict[str, Callable[[Tour], Awaitable[None]]] = {
    visit.__name__: visit
    for visit in (
        draft_and_problem, list_of_conversations, stored_messages, edited_messages, passages, found_messages, lines_pasted_into,
        messages_pasted, names_of_conversations, deleted_and_restored, settings, models, collections, files, replies, halves,
        errors, copied,
    )
}  # fmt: skip


if __name__ == "__main__":
    Tour(sys.argv[1], sys.argv[2:]).run()
