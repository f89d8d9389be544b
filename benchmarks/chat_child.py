"""The process that `benchmarks/chat.py` puts on a pseudo-terminal: the chat with a fake model; what it took goes into a file."""

from __future__ import annotations

import asyncio
import csv
import gc
import json
import os
import random
import sys
import time
from collections.abc import AsyncIterator
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from langchain_core.messages import AIMessageChunk
from langchain_core.outputs import ChatGenerationChunk
from textual.widgets import Markdown

from kosent.conversations import WRITING, ConversationStore
from kosent.starter import corpus_path
from kosent.testing import ScriptedChat
from kosent.tui.app import ChatApp
from kosent.tui.bubble import Bubble
from kosent.tui.composer import Composer
from kosent.tui.testing import ScriptedBackend

CHUNKS, PER_SECOND = 4000, 30
REPLIES, WARM_UP = 200, 20
LIST = "- 천천히 숨을 쉬어 보기\n- **가까운 사람**에게 한마디 하기\n- 일찍 눕기\n\n"
CODE = "```python\nfor day in week:\n    print(day, '괜찮아')\n```\n\n"


def corpus_texts() -> list[str]:
    """Every reply of the starter corpus: what people say in it, the reply guard would keep out of a reply."""
    with corpus_path().open(encoding="cp949", newline="") as file:
        return [text for row in csv.DictReader(file) for name, text in row.items() if text and name[:2] == "시스"]


def pieces(number: int, seed: int = 7) -> list[str]:
    """So many chunks of one to four characters: paragraphs of the corpus, with a list and some code now and then."""
    draw, texts = random.Random(seed), corpus_texts()
    lengths = [draw.randint(1, 4) for _ in range(number)]
    text, part = "", 0
    while len(text) < sum(lengths):
        text += " ".join(draw.choices(texts, k=4)) + "\n\n" + (LIST if part % 3 == 1 else "") + (CODE if part % 5 == 4 else "")
        part += 1
    ends = [0, *accumulate(lengths)]
    return [text[start:end] for start, end in pairwise(ends)]


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
        while (writer := self.pane.writer) is None or writer is last or writer.status == WRITING or self.pane.busy:
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
        lost = max(max(len(sent), len(found)) - _common(sent, found) for found in (shown, stored))
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
