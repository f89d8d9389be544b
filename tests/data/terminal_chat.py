"""The chat in a process of its own, for test_terminal.py: `tour` shows hostile or harmless texts everywhere, `slow` streams.

    python terminal_chat.py tour hostile        writes MARK and a name to the terminal after each place it has been to
    python terminal_chat.py slow LOG DELAY      logs each character that the model has given, with the time

It needs a terminal, KOSENT_HOME and `tests` on PYTHONPATH.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

from langchain_core.documents import Document
from langchain_core.outputs import ChatGenerationChunk
from langchain_core.retrievers import BaseRetriever
from textual import events
from textual.pilot import Pilot
from textual.widgets import Input

from injections import INJECTIONS
from kosent.available import Available
from kosent.conversations import FAILED, ConversationStore
from kosent.errors import BackendError, InterruptedReplyError, ModelError
from kosent.testing import ScriptedChat
from kosent.tui.app import ChatApp, chat_app
from kosent.tui.bubble import Bubble
from kosent.tui.composer import Composer
from kosent.tui.testing import ScriptedBackend
from terminals import MARK

HARMLESS = ["안녕하세요", "안녕 **굵게** [여기](https://example.org)", "```python\nprint('안녕')\n```", "- 안녕\n- 하세요"]
MARKDOWN = [  # what Markdown itself turns into controls
    "안녕 https://evil.example/%1B%5D0;pwned%1B%5Cx 끝",
    "안녕 <https://evil.example/%1B%5B2J%C2%9B31m>",
    "안녕 &#x202e;gpj.exe &lrm;&rlm; &#x2066;끝",
    "안녕 &#27;]0;pwned&#7; &#x9b;2J &#13;끝",
    "안녕 [여기](https://evil.example/%1b%5b2J \"%1b]0;pwned\") ![그림 &#x202e;](https://evil.example/%1b)",
    "| 안녕 | &#x202e;표 |\n|---|---|\n| https://evil.example/%1B%5Dx | &rlm; |",
    "# 안녕 https://evil.example/%1B%5B2J\n> 인용 https://evil.example/%E2%80%AEgpj",
]
TEXT = "".join(f"{number}번째 문장이에요. 오늘은 바람이 조금 불고 햇볕이 따뜻했어요. " for number in range(1, 60))


def encodable(text: str) -> str:
    """SQLite takes no half of a character."""
    return text.encode(errors="replace").decode()


class Pieces(ScriptedChat):
    """Short replies character by character, long ones in larger pieces."""

    def _stream(self, *arguments: Any, **options: Any) -> Iterator[ChatGenerationChunk]:
        given = list(super()._stream(*arguments, **options))
        size = max(1, len(given) // 30)
        for start in range(0, len(given), size):
            yield sum_of(given[start : start + size])


def sum_of(chunks: list[ChatGenerationChunk]) -> ChatGenerationChunk:
    total = chunks[0]
    for chunk in chunks[1:]:
        total += chunk
    return total


class Shelf(BaseRetriever):
    """Everything, for a question that asks for it."""

    texts: list[str]

    def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
        return [Document(text, metadata={"source": text}) for text in self.texts] if "인용" in query else []


class Tour:
    def __init__(self, texts: list[str]) -> None:
        self.texts, self.short = texts, [text for text in texts if len(text) < 400]
        self.all = encodable("\n\n".join(self.short))
        self.hostile_line = next((text for text in texts if "\x1b]52" in text), "안녕") + "\u202e\x9b2J" * ("\x1b" in self.all)
        self.store = ConversationStore()
        said = f"{self.all}\n\n{ModelError.__name__}"
        named = tuple(map(encodable, texts))
        there = Available("", named, self.all, {"http://안녕": self.all, "http://있음": named}, (Path("/안녕"),))
        self.backend = ScriptedBackend(
            retriever=Shelf(texts=texts), there=there, problems=(ModelError(said, hint=self.all),)
        )
        self.backend.model = Pieces(replies=[*self.short, *self._broken(), "안녕하세요."])
        self.groups: dict[int, int] = {}
        self.fill()
        self.chat: ChatApp = chat_app(self.backend, self.store)
        self.pilot: Pilot[Any]

    def _broken(self) -> list[Exception]:
        return [BackendError(self.all, hint=self.all), InterruptedReplyError(self.all, text="", hint=self.all)]

    def fill(self) -> None:
        """Conversations called by the texts, and some whose messages are the texts."""
        texts = list(map(encodable, self.texts))
        for start in range(0, len(texts), 10):
            group = self.groups[start] = self.store.new(texts[start], {"system": encodable("\n".join(texts[start : start + 10]))}, title=f"모음 {start}")
            for text in texts[start : start + 10]:
                self.store.add(group, "user", text)
                facts = {"problem": text, "model": text, "citations": [{"number": 1, "source": text, "text": text}]}
                self.store.add(group, "assistant", text, FAILED, facts=facts | {"seconds": 1.0, "first_token": 0.5})
        for text in texts:
            self.store.add(self.store.new(text, title=text), "user", f"이름 {text}")
        self.store.prefer("draft", encodable("\n".join(self.short[:8])))

    def run(self) -> None:
        self.chat.run(auto_pilot=self.guide)
        self.store.close()

    async def guide(self, pilot: Pilot[Any]) -> None:
        self.pilot = pilot
        for visit in VISITS:
            await visit(self)
            await self.settle()
            assert self.chat._driver is not None
            self.chat._driver.write(f"{MARK}{visit.__name__}\n")
        await self.press("ctrl+q")

    async def settle(self) -> None:
        await self.pilot.pause()
        await self.pilot.pause(0.02)

    async def until(self, holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not holds():
            assert time.monotonic() < deadline, "waited too long"
            await self.pilot.pause(0.02)

    async def press(self, *keys: str) -> None:
        for key in keys:
            await self.pilot.press(key)
            await self.settle()

    async def paste(self, text: str) -> None:
        assert self.chat.focused is not None
        self.chat.focused.post_message(events.Paste(text))
        await self.settle()

    def line(self) -> Input:
        return self.chat.screen.query(Input).last()

    async def open(self, start: int) -> None:
        await self.chat.pane.open(self.groups[start])
        await self.settle()

    async def ask(self, text: str) -> None:
        composer = self.chat.query_one(Composer)
        composer.focus()
        composer.text = text
        asked = len(self.backend.model.asked)
        await self.pilot.press("enter")
        await self.until(lambda: len(self.backend.model.asked) > asked and not self.chat.pane.busy)
        await self.settle()


async def draft_and_problem(tour: Tour) -> None:
    """What had been written, and why no model could be loaded."""
    await tour.until(lambda: tour.chat.models.problem is not None)
    await tour.settle()
    tour.chat.models.load("")
    await tour.until(lambda: tour.chat.models.loaded is not None)


async def list_of_conversations(tour: Tour) -> None:
    await tour.press("ctrl+b", *["pagedown"] * 4, "ctrl+b")


async def stored_messages(tour: Tour) -> None:
    for start in range(0, len(tour.texts), 10):
        await tour.open(start)
        transcript = tour.chat.pane.transcript
        for _ in range(40):
            transcript.scroll_page_up(animate=False)
            await tour.settle()
            if transcript.scroll_y == 0 and transcript.start == 0:
                break


async def edited_messages(tour: Tour) -> None:
    for start in range(0, len(tour.texts), 10):
        await tour.open(start)
        for bubble in tour.chat.query(Bubble):
            if bubble.message.role == "user" and len(bubble.text) < 400:
                tour.chat.pane._edit(bubble.message)
                await tour.settle()
        await tour.press("escape")


async def passages(tour: Tour) -> None:
    await tour.open(0)
    await tour.press("ctrl+up", "o", "pagedown", "escape")


async def found(tour: Tour) -> None:
    for words in ("이름", "안녕", "끝"):
        await tour.press("ctrl+f")
        await tour.paste(words)
        await tour.press("down", *["pagedown"] * 5, "escape")


async def pasted_into_lines(tour: Tour) -> None:
    await tour.press("ctrl+f")
    for text in tour.short:
        if '\x00' in text or '\ud83d' in text: continue
        tour.line().value = ""
        await tour.paste(text)
    await tour.press("escape")


async def renamed(tour: Tour) -> None:
    await tour.press("ctrl+b")
    for _ in range(len(tour.texts)):
        await tour.press("r", "escape", "down")
    await tour.press("r")
    await tour.paste(tour.hostile_line)
    await tour.press("enter", "ctrl+b")


async def settings(tour: Tour) -> None:
    for start in range(0, len(tour.texts), 10):
        await tour.open(start)
        await tour.press("ctrl+t", *["pagedown"] * 6, "escape")
    await tour.press("ctrl+t", "tab")
    await tour.paste(tour.hostile_line)
    await tour.press("enter", "escape")


async def models(tour: Tour) -> None:
    await tour.press("ctrl+o", *["pagedown"] * 10)
    for _ in range(3):
        await tour.press("enter")
        await tour.until(lambda: tour.chat.models.loaded is not None)
        await tour.press("ctrl+n", "ctrl+o", "home", "down")
    await tour.press("escape")


async def exported_and_imported(tour: Tour) -> None:
    folder = tour.store.path.parent / tour.hostile_line.replace("/", "")
    folder.mkdir()
    os.chdir(folder)
    await tour.open(0)
    for _ in range(2):
        await tour.press("ctrl+s")
        tour.line().focus()
        await tour.press("enter")
    tour.chat.action_import()
    await tour.settle()
    await tour.paste(tour.hostile_line)
    await tour.press("enter")
    tour.chat.action_forget()
    await tour.press("escape")


async def deleted_and_restored(tour: Tour) -> None:
    await tour.press("ctrl+b")
    for _ in range(6):
        await tour.press("d", "ctrl+z", "down", "down")
    await tour.press("ctrl+b")


async def answered(tour: Tour) -> None:
    for number, text in enumerate(tour.short):
        if number % 10 == 0:
            await tour.press("ctrl+n")
        await tour.ask(text)


async def failed(tour: Tour) -> None:
    await tour.press("ctrl+n")
    await tour.ask("안녕")
    await tour.ask("안녕")


async def cited(tour: Tour) -> None:
    await tour.ask("인용해 줘")
    await tour.press("ctrl+up", "o", *["pagedown"] * 20, "escape")


async def copied(tour: Tour) -> None:
    for start in range(0, len(tour.texts), 10):
        await tour.open(start)
        tour.chat.pane.copy(tour.chat.pane.transcript.messages[-1].content)
        await tour.settle()
    await tour.until(lambda: not tour.chat.workers._workers)


VISITS: list[Callable[[Tour], Awaitable[None]]] = [
    draft_and_problem, list_of_conversations, stored_messages, edited_messages, passages, found, pasted_into_lines, renamed,
    settings, models, exported_and_imported, deleted_and_restored, answered, failed, cited, copied,
]  # fmt: skip


if __name__ == "__main__":
    Tour([text for _, text in INJECTIONS] + MARKDOWN if sys.argv[2] == "hostile" else HARMLESS).run()
