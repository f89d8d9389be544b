"""One reply while it is written: gathered from the chain, shown eight times a second or less often, stored as it grows."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from kosent.conversations import COMPLETE, STOPPED, WRITING, ConversationStore
from kosent.conversations.answer import SECONDS_BETWEEN_SAVES, Answer

if TYPE_CHECKING:
    from langchain_core.messages import BaseMessage
    from langchain_core.runnables import Runnable

    from kosent.reply import Reply

SECONDS_BETWEEN_SHOWS = 0.125
"""Markdown is parsed and drawn anew for each, so not for every token."""
SHARE_OF_A_CORE, MOST_SECONDS_BETWEEN_SHOWS = 0.1, 0.5
"""A long reply is shown less often, so that drawing it takes no more of a core than this."""


class ReplyWriter:
    """Writes into the message of the store that has the id `message`; `begun` and `facts` are what a stopped reply had."""

    def __init__(
        self, store: ConversationStore, message: int, *, begun: str = "", facts: Mapping[str, Any] | None = None
    ) -> None:
        self.store, self.message, self.begun = store, message, begun
        self.answer = Answer(begun, facts)
        self.problem: BaseException | None = None
        self.status = WRITING
        self.ended = False
        self._asked = False

    async def write(
        self,
        chain: Runnable[Any, Reply],
        question: str,
        history: Sequence[BaseMessage],
        show: Callable[[], Awaitable[None]],
    ) -> None:
        """Asks and gathers until the reply ends, breaks or is cancelled; what came is stored with its status in every case.

        `show` is called when text or facts have changed. Raises nothing but cancellation; `problem` keeps what went wrong.
        """
        asked: dict[str, Any] = {"message": question, "history": list(history)}
        if self.begun:
            asked["reply_begun"] = self.begun
        self._asked = True
        self.answer.start()
        keeper = asyncio.create_task(self._keep(show))
        try:
            async for piece in chain.astream(asked):
                self.answer.took(piece)
            self.status = COMPLETE
        except Exception as error:  # whatever a backend raises must not end the chat
            self.fail(error)
        finally:
            keeper.cancel()
            with suppress(asyncio.CancelledError):
                await keeper
            self.end()

    async def _keep(self, show: Callable[[], Awaitable[None]]) -> None:
        shown, saved = (self.begun, 0), self.begun
        shown_at = saved_at = time.monotonic()
        pause, used = 0.0, time.thread_time()
        while True:
            await asyncio.sleep(SECONDS_BETWEEN_SHOWS)
            now = (self.answer.text, len(self.answer.facts()))
            if shown != now and time.monotonic() - shown_at >= pause:
                shown, shown_at = now, time.monotonic()
                await show()
                before, used = used, time.thread_time()
                pause = min((used - before) / SHARE_OF_A_CORE, MOST_SECONDS_BETWEEN_SHOWS)
            if saved != self.answer.text and time.monotonic() - saved_at >= SECONDS_BETWEEN_SAVES:
                saved, saved_at = self.answer.text, time.monotonic()
                self._store(WRITING)

    def fail(self, error: BaseException) -> None:
        self.status, self.problem = self.answer.broke(error), error

    def end(self) -> None:
        """Stores what became of it, once; a reply that was neither finished nor failed was stopped."""
        if self.ended:
            return
        self.ended = True
        if self.status == WRITING:
            self.status = STOPPED
        self.answer.ended()
        self._store(self.status)

    def _store(self, status: str) -> None:
        try:
            self.store.update(self.message, self.answer.text, status, self.answer.facts())
        except (sqlite3.Error, TypeError, ValueError) as error:  # the reply is shown all the same, and that is said beside it
            self.problem = self.problem or error

    @property
    def waited(self) -> float:
        """Seconds since the model was asked, while it has not begun to answer; else 0."""
        return self.answer.elapsed if self._asked and self.answer.first is None else 0.0
