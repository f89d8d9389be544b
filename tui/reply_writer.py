"""One reply while it is written: gathered from the chain, shown eight times a second, stored twice a second."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from kosent.conversations import COMPLETE, FAILED, STOPPED, WRITING, ConversationStore
from kosent.errors import InterruptedReplyError
from kosent.text import PrintableStream, printable

if TYPE_CHECKING:
    from langchain_core.messages import BaseMessage
    from langchain_core.runnables import Runnable

    from kosent.reply import Reply

SECONDS_BETWEEN_SHOWS = 0.125
"""Markdown is parsed and drawn anew for each, so not for every token."""
SHARE_OF_A_CORE, MOST_SECONDS_BETWEEN_SHOWS = 0.1, 0.5
"""A long reply is shown less often, so that drawing it takes no more of a core than this."""
SECONDS_BETWEEN_SAVES = 0.4
PASSING = ("problem", "cut_off", "finish_reason", "dropped_turns")
"""Facts of a stopped reply that do not hold of it once it has gone on."""


class ReplyWriter:
    """`text` and `facts` are those of the message in the store; `begun` is what a stopped reply had before."""

    def __init__(self, store: ConversationStore, message: int, *, begun: str = "", facts: dict[str, Any] | None = None) -> None:
        self.store, self.message, self.begun = store, message, begun
        self.text = begun
        self.facts: dict[str, Any] = {key: value for key, value in (facts or {}).items() if key not in PASSING}
        self._clean = PrintableStream()
        self.problem: BaseException | None = None
        self.status = WRITING
        self._started = self._first = 0.0
        self._opened = False
        self.ended = False
        self._replaced = int((facts or {}).get("replaced", 0))

    async def write(
        self,
        chain: Runnable[Any, Reply],
        question: str,
        history: Sequence[BaseMessage],
        show: Callable[[], Awaitable[None]],
    ) -> None:
        """Asks and gathers until the reply ends, breaks or is cancelled; what came is stored with its status in every case.

        `show` is called when `text` or `facts` have changed. Raises nothing but cancellation; `problem` keeps what went wrong.
        """
        asked: dict[str, Any] = {"message": question, "history": list(history)}
        if self.begun:
            asked["reply_begun"] = self.begun
        self._started = time.monotonic()
        keeper = asyncio.create_task(self._keep(show))
        try:
            async for piece in chain.astream(asked):
                self._take(piece)
            self.status = COMPLETE
        except InterruptedReplyError as error:
            self.status, self.problem = STOPPED, error
        except Exception as error:  # whatever a backend raises must not end the chat
            self.fail(error)
        finally:
            keeper.cancel()
            with suppress(asyncio.CancelledError):
                await keeper
            self.end()

    def _take(self, piece: Reply) -> None:
        text = piece.text
        if piece.safety and piece.safety.card and not self._opened:
            self.facts["card"] = True
            text = ""  # the first piece is the card, which stands above the reply
        self._opened = True
        if piece.safety:
            self.facts["safety"] = piece.safety.level
            self.facts["replaced"] = self._replaced + piece.safety.replaced
        if piece.citations:
            self.facts["citations"] = [
                {"number": one.number, "text": printable(one.text), "source": printable(one.source)} for one in piece.citations
            ]
        if piece.usage:
            self.facts["tokens"] = piece.usage["output_tokens"]
            self.facts["prompt_tokens"] = piece.usage["input_tokens"]
        for name in ("finish_reason", "model", "dropped_turns"):
            if value := getattr(piece, name):
                self.facts[name] = value
        if text:
            self._first = self._first or time.monotonic()
            self.text += self._clean.feed(text)

    async def _keep(self, show: Callable[[], Awaitable[None]]) -> None:
        shown, saved = (self.begun, 0), self.begun
        shown_at = saved_at = time.monotonic()
        pause, used = 0.0, time.thread_time()
        while True:
            await asyncio.sleep(SECONDS_BETWEEN_SHOWS)
            if shown != (now := (self.text, len(self.facts))) and time.monotonic() - shown_at >= pause:
                shown, shown_at = now, time.monotonic()
                await show()
                before, used = used, time.thread_time()
                pause = min((used - before) / SHARE_OF_A_CORE, MOST_SECONDS_BETWEEN_SHOWS)
            if saved != self.text and time.monotonic() - saved_at >= SECONDS_BETWEEN_SAVES:
                saved, saved_at = self.text, time.monotonic()
                self._store(WRITING)

    def fail(self, error: BaseException) -> None:
        """What came before is a stopped reply; without any the reply has failed."""
        self.status, self.problem = STOPPED if self.text.strip() else FAILED, error

    def end(self) -> None:
        """Stores what became of it, once; a reply that was neither finished nor failed was stopped."""
        if self.ended:
            return
        self.ended = True
        self.text += self._clean.rest()
        if self.status == WRITING:
            self.status = STOPPED
        if self._first:
            self.facts["first_token"] = round(self._first - self._started, 3)
            self.facts["seconds"] = round(time.monotonic() - self._started, 3)
        if self.problem is not None:
            self.facts["problem"] = str(self.problem)
        self._store(self.status)

    def _store(self, status: str) -> None:
        try:
            self.store.update(self.message, self.text, status, self.facts)
        except (sqlite3.Error, TypeError, ValueError) as error:  # the reply is shown all the same, and that is said beside it
            self.problem = self.problem or error

    @property
    def waited(self) -> float:
        """Seconds since the model was asked, while it has not begun to answer; else 0."""
        return 0.0 if self._first or not self._started else time.monotonic() - self._started
