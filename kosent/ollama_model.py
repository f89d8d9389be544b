"""ChatOllama whose failures are KoSent's: what went wrong and the next command, instead of an HTTP traceback."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import httpx
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_ollama import ChatOllama
from ollama import ResponseError

from kosent.errors import BackendError


@contextmanager
def explained(url: str | None, what: str) -> Iterator[None]:
    """Makes a `BackendError` of what the clients of Ollama raise; `what` it could not do, "answer with 'kosent'"."""
    try:
        yield
    except (httpx.HTTPError, ConnectionError) as error:
        raise BackendError(f"The connection to Ollama at {url} broke: {error}", hint="ollama serve") from error
    except ResponseError as error:
        raise BackendError(f"Ollama could not {what}: {error.error}", hint="ollama list") from error


class OllamaChat(ChatOllama):
    """Raises `BackendError` when Ollama goes away, refuses or runs out of memory."""

    def _explained(self) -> AbstractContextManager[None]:
        return explained(self.base_url, f"answer with {self.model!r}")

    def _generate(self, *args: Any, **kwargs: Any) -> ChatResult:
        with self._explained():
            return super()._generate(*args, **kwargs)

    async def _agenerate(self, *args: Any, **kwargs: Any) -> ChatResult:
        with self._explained():
            return await super()._agenerate(*args, **kwargs)

    def _stream(self, *args: Any, **kwargs: Any) -> Iterator[ChatGenerationChunk]:
        with self._explained():
            yield from super()._stream(*args, **kwargs)

    async def _astream(self, *args: Any, **kwargs: Any) -> AsyncIterator[ChatGenerationChunk]:
        with self._explained():
            async for chunk in super()._astream(*args, **kwargs):
                yield chunk
