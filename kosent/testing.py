"""A chat model for tests: says what it was told to say, in pieces, and remembers what it was asked.

chain = build_chain(ScriptedChat(replies=["그랬군요."]))
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.messages import AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGenerationChunk
from pydantic import PrivateAttr

from kosent.streamed_chat import StreamedChat


class ScriptedChat(StreamedChat):
    """Answers with `replies` in turn, one character a chunk; an exception among them is raised in its place."""

    replies: list[Any]
    """Texts, or exceptions to raise."""
    delay: float = 0.0
    """Seconds before each chunk."""

    _asked: list[list[BaseMessage]] = PrivateAttr(default_factory=list)

    @property
    def asked(self) -> list[list[BaseMessage]]:
        """The messages of every call so far."""
        return self._asked

    @property
    def _llm_type(self) -> str:
        return "kosent-scripted"

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        reply = self.replies[len(self._asked) % len(self.replies)]
        self._asked.append(list(messages))
        if isinstance(reply, Exception):
            raise reply
        for character in reply:
            time.sleep(self.delay)
            yield ChatGenerationChunk(message=AIMessageChunk(content=character))
