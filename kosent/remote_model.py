"""What chat models on a server have in common: the conversation is fitted into the context, turn markers in messages become
text, a server that does not answer is tried again, and what fails says what went wrong and the next command.

A final assistant message is sent like any other: the server goes on with it where the model's template leaves it open. A reply
is asked for again only as long as none of it has come. A stream that ends too early raises `InterruptedReplyError`, with what
came.
"""

from __future__ import annotations

import asyncio
import time
from abc import abstractmethod
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatGenerationChunk

from kosent.context import Fitted, turn_starts, turns_dropped
from kosent.errors import ContextLengthError, InterruptedReplyError, KosentError, ServerDownError
from kosent.neutral import neutral_messages
from kosent.streamed_chat import StreamedChat

PAUSES = (0.25, 1.0)
"""Seconds before the second and the third try."""


@dataclass
class _Attempt:
    """How far a reply has come, and what to do when it breaks."""

    fitted: Fitted
    tries: int = 0
    text: str = ""
    begun: bool = False
    ended: bool = False

    def took(self, chunk: ChatGenerationChunk) -> ChatGenerationChunk:
        info = chunk.generation_info or {}
        self.text += chunk.text
        self.begun = self.begun or bool(chunk.text)
        if info.get("done_reason") or info.get("finish_reason"):
            self.ended = True
            chunk.generation_info = info | {"dropped_turns": self.fitted.dropped_turns}
        return chunk

    def pause_after(self, error: KosentError) -> float:
        """Seconds to wait before the next try. Raises `error` where there is none, or what to make of it."""
        if self.begun:
            raise InterruptedReplyError(
                f"The reply broke off after {len(self.text)} letters: {error}", text=self.text, hint=error.hint
            ) from error
        if isinstance(error, ContextLengthError) and len(turn_starts(self.fitted.messages)) > 1:
            turns = len(turn_starts(self.fitted.messages))
            excess = 1 - error.room / error.tokens if error.tokens else 0.0
            number = min(turns - 1, max(1, int(excess * turns)))
            messages = turns_dropped(self.fitted.messages, number)
            self.fitted = replace(self.fitted, messages=messages, dropped_turns=self.fitted.dropped_turns + number)
            return 0.0
        if not isinstance(error, ServerDownError) or self.tries >= len(PAUSES):
            raise error
        self.tries += 1
        return PAUSES[self.tries - 1]

    def check_ended(self) -> None:
        if not self.ended and not self.begun:
            raise ServerDownError("The server ended the reply before its first letter.", hint="the server's log says why")
        if not self.ended:
            raise InterruptedReplyError(
                f"The server ended the reply after {len(self.text)} letters without saying that it is whole.",
                text=self.text,
                hint="ask again; the server's log says why it stopped",
            )


class RemoteChat(StreamedChat):
    """Goes before a LangChain model in a class' bases; the class says how messages are counted and errors are explained."""

    @abstractmethod
    def fitted(self, messages: list[BaseMessage]) -> Fitted:
        """`messages` without the turns for which there is no room. Raises `ContextLengthError`."""

    def bounded(self, fitted: Fitted) -> dict[str, Any]:
        """Arguments that keep the reply within what `fitted` leaves of the context."""
        return {}

    @abstractmethod
    def explained(self, error: Exception) -> KosentError | None:
        """What an exception of the client means; None for a mistake of ours."""

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        attempt = _Attempt(self.fitted(neutral_messages(messages)))
        while not attempt.ended:
            try:
                given = kwargs | self.bounded(attempt.fitted)
                for chunk in super()._stream(attempt.fitted.messages, stop, run_manager, **given):
                    yield attempt.took(chunk)
                attempt.check_ended()
            except InterruptedReplyError:
                raise
            except Exception as error:
                time.sleep(attempt.pause_after(self._meant(error)))

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        attempt = _Attempt(await asyncio.to_thread(self.fitted, neutral_messages(messages)))
        while not attempt.ended:
            try:
                given = kwargs | self.bounded(attempt.fitted)
                async with aclosing(super()._astream(attempt.fitted.messages, stop, run_manager, **given)) as chunks:  # type: ignore[type-var]
                    async for chunk in chunks:
                        yield attempt.took(chunk)
                attempt.check_ended()
            except InterruptedReplyError:
                raise
            except Exception as error:
                await asyncio.sleep(attempt.pause_after(self._meant(error)))

    def _meant(self, error: Exception) -> KosentError:
        meant = error if isinstance(error, KosentError) else self.explained(error)
        if meant is None:
            raise error
        meant.__cause__ = error if meant is not error else error.__cause__
        return meant
