"""The process that `benchmarks/chat.py` puts on a pseudo-terminal: the chat with a fake model; what it took goes into a file."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import random
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from langchain_core.messages import AIMessageChunk
from langchain_core.outputs import ChatGenerationChunk
from textual.widgets import Markdown

from kosent.conversations import ConversationStore
from kosent.testing import ScriptedChat
from kosent.tui.app import ChatApp
from kosent.tui.bubble import Bubble
from kosent.tui.composer import Composer
from kosent.tui.testing import ScriptedBackend

CHUNKS, PER_SECOND = 4000, 30
REPLIES, WARM_UP = 200, 20
PARAGRAPH = (
    "오늘 하루 많이 힘드셨겠어요. 그렇게 애쓰고도 알아주는 사람이 없으면 누구라도 서운할 거예요. "
    "지금은 잘하려고 하기보다 잠깐 쉬어도 괜찮아요. **따뜻한 물** 한 잔 마시고, 창문을 조금 열어 볼까요?\n\n"
)
LIST = "- 천천히 숨을 쉬어 보기\n- 가까운 사람에게 한마디 하기\n- 일찍 눕기\n\n"
CODE = "```python\nfor day in week:\n    print(day, '괜찮아')\n```\n\n"


def pieces(number: int) -> list[str]:
    """So many chunks of one to four characters: paragraphs, with a list and some code now and then."""
    draw = random.Random(7)
    text = "".join(PARAGRAPH + (LIST if part % 3 == 1 else "") + (CODE if part % 5 == 4 else "") for part in range(number))
    found, place = [], 0
    for _ in range(number):
        length = draw.randint(1, 4)
        found.append(text[place : place + length])
        place += length
    return found


class TimedChat(ScriptedChat):
    """Says the chunks, each at its time."""

    chunks: list[str]
    every: float
    """Seconds between two."""

    async def _astream(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **_: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        began = time.monotonic()
        for number, chunk in enumerate(self.chunks, start=1):
            yield ChatGenerationChunk(message=AIMessageChunk(content=chunk))
            await asyncio.sleep(max(0.0, began + number * self.every - time.monotonic()))


class Driven(ChatApp):
    """Writes to itself as a person would, `rounds` times."""

    rounds = 1
    target = Path()

    async def on_ready(self) -> None:
        self.run_worker(self.drive())

    async def say(self) -> None:
        self.pane.composer.insert("오늘은 좀 힘들었어")
        self.pane.composer.post_message(Composer.Sent(self.pane.composer.text))
        last = self.pane.writer
        while self.pane.writer is last or self.pane.busy:
            await asyncio.sleep(0.05)

    async def drive(self) -> None:
        raise NotImplementedError

    def tell(self, **facts: float) -> None:
        self.target.write_text(json.dumps(facts), encoding="utf-8")
        self.exit()


class Reply(Driven):
    async def drive(self) -> None:
        while self.models.loaded is None:
            await asyncio.sleep(0.1)
        await asyncio.sleep(1)
        before, began = os.times(), time.monotonic()
        await self.say()
        after, wall = os.times(), time.monotonic() - began
        await asyncio.sleep(0.5)
        backend: Any = self.backend
        sent = "".join(backend.model.chunks)
        shown = self.query(Bubble).last().query_one(Markdown).source
        stored = self.store.messages(self.store.latest() or 0)[-1].content
        lost = max(len(sent) - _common(sent, shown), len(sent) - _common(sent, stored))
        self.tell(cpu=after.user + after.system - before.user - before.system, wall=wall, lost=lost)


class Memory(Driven):
    async def drive(self) -> None:
        while self.models.loaded is None:
            await asyncio.sleep(0.1)
        start = 0.0
        for number in range(WARM_UP + REPLIES):
            if number == WARM_UP:
                start = _resident()
            await self.say()
        self.tell(start=start, end=_resident())


def _common(one: str, other: str) -> int:
    return next((place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _resident() -> float:
    """MB that this process holds."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def main() -> None:
    part, target = sys.argv[1:3]
    kind, chunks, every = {
        "reply": (Reply, int(sys.argv[3]) if len(sys.argv) > 3 else CHUNKS, 1 / PER_SECOND),
        "memory": (Memory, 160, 0.001),
    }[part]
    backend = ScriptedBackend()
    backend.model = TimedChat(replies=[], chunks=pieces(chunks), every=every)
    store = ConversationStore()
    chat = kind(backend, store)
    chat.target = Path(target)
    chat.run()
    store.close()


if __name__ == "__main__":
    main()
