"""ChatOllama whose conversations fit into the context and whose failures are KoSent's: what went wrong and the next command."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
from langchain_core.messages import BaseMessage
from langchain_ollama import ChatOllama
from ollama import ResponseError
from pydantic import PrivateAttr

from kosent.context import Fitted, fit
from kosent.errors import (
    BackendError,
    KosentError,
    ModelError,
    OutOfMemoryError,
    ServerDownError,
    ServerTimeoutError,
)
from kosent.ollama_tokens import OllamaTokens
from kosent.remote_model import RemoteChat


def meaning(error: Exception, url: str | None, what: str) -> KosentError | None:
    """What an exception of Ollama's clients means; `what` could not be done, "answer with 'kosent'"."""
    if isinstance(error, httpx.TimeoutException) and not isinstance(error, httpx.ConnectTimeout):
        return ServerTimeoutError(
            f"Ollama at {url} said nothing for too long; it could not {what}.",
            hint="ollama ps     (what it is busy with), or a longer `timeout` in config.toml",
        )
    if isinstance(error, (httpx.HTTPError, ConnectionError)):
        return ServerDownError(f"The connection to Ollama at {url} broke: {error or type(error).__name__}", hint="ollama serve")
    if isinstance(error, ResponseError):
        return _refusal(error, url, what)
    if isinstance(error, (json.JSONDecodeError, UnicodeDecodeError)):
        return BackendError(f"Ollama at {url} sent something that is not its own: {error}", hint="is OLLAMA_HOST really Ollama?")
    return None


def _refusal(error: ResponseError, url: str | None, what: str) -> KosentError:
    said = error.error
    if error.status_code == 404 and "not found" in said:
        name = what.rpartition(" ")[2].strip("'\"")
        return ModelError(
            f"Ollama at {url} could not {what}: {said}", hint=f"ollama pull {name}     or kosent export RUN --ollama {name}"
        )
    if any(sign in said for sign in ("memory", "killed", "unable to allocate", "resource limitations")):
        return OutOfMemoryError(
            f"Ollama could not {what}: {said}",
            hint="a smaller model or quantization, or a smaller `context` in config.toml; `ollama ps` shows what else is loaded",
        )
    if error.status_code in (502, 503, 504):
        return ServerDownError(
            f"Ollama at {url} is busy; it could not {what}: {said}", hint="ollama ps     (what it is busy with)"
        )
    return BackendError(f"Ollama could not {what}: {said}", hint="ollama list")


@contextmanager
def explained(url: str | None, what: str) -> Iterator[None]:
    """Raises what `meaning` makes of an exception of Ollama's clients."""
    try:
        yield
    except Exception as error:
        meant = meaning(error, url, what)
        if meant is None:
            raise
        raise meant from error


class OllamaChat(RemoteChat, ChatOllama):
    """Raises `ServerDownError`, `ServerTimeoutError`, `ModelError`, `OutOfMemoryError`, `ContextLengthError`, or
    `InterruptedReplyError` when the stream ends early."""

    _tokens: OllamaTokens | None = PrivateAttr(default=None)

    def fitted(self, messages: list[BaseMessage]) -> Fitted:
        context, wanted = self.num_ctx, self.num_predict
        if context is None or wanted is None or OllamaTokens.at_most(messages) + wanted <= context:
            return Fitted(messages, 0, 0)  # surely fits
        if self._tokens is None:
            self._tokens = OllamaTokens(str(self.base_url), self.model, context)
        with explained(self.base_url, f"count the tokens of {self.model!r}"):
            return fit(messages, self._tokens.count, context, wanted)

    def bounded(self, fitted: Fitted) -> dict[str, Any]:
        """No more than there is room for: Ollama would drop the beginning of the conversation to go on."""
        return {"room": self.num_ctx - fitted.tokens} if self.num_ctx and fitted.tokens else {}

    def _chat_params(
        self, messages: list[BaseMessage], stop: list[str] | None = None, *, room: int | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        params = super()._chat_params(messages, stop, **kwargs)
        if room is not None:
            params["options"]["num_predict"] = min(room, params["options"].get("num_predict", room))
        return params

    def explained(self, error: Exception) -> KosentError | None:
        return meaning(error, self.base_url, f"answer with {self.model!r}")
