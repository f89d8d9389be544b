"""A chat model for any server that speaks OpenAI's protocol (vLLM, llama-server, Ollama's /v1), with KoSent's errors.

The server counts: when it says that a conversation is too long for its context, the oldest turn is left out and it is asked
again.
"""

from __future__ import annotations

import re
from typing import Any

import httpx
import openai
from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import AIMessage, BaseMessage
from langchain_openai.chat_models.base import BaseChatOpenAI
from pydantic import SecretStr

from kosent.context import Fitted
from kosent.errors import (
    BackendError,
    ContextLengthError,
    KosentError,
    ModelError,
    OutOfMemoryError,
    ServerDownError,
    ServerTimeoutError,
)
from kosent.remote_model import RemoteChat

_TOO_LONG = re.compile(r"context.{0,12}(length|size|window)|context_length_exceeded|exceed_context_size", re.IGNORECASE)
_FORMS = (  # vLLM, llama-server, llama-cpp-python
    re.compile(r"maximum context length is (?P<room>\d+) tokens.{0,60}?(?:requested|has|contains) (?P<tokens>\d+)"),
    re.compile(r"\((?P<tokens>\d+) tokens\).{0,60}?context size \((?P<room>\d+)"),
    re.compile(r"\((?P<tokens>\d+) tokens > (?P<room>\d+)"),
)
GOING_ON = {"add_generation_prompt": False, "continue_final_message": True}
"""What makes vLLM and llama-server leave a final assistant message open, so that the reply goes on with it."""


class OpenAIChat(RemoteChat, BaseChatOpenAI):
    """Raises `ServerDownError`, `ServerTimeoutError`, `ModelError`, `OutOfMemoryError`, `ContextLengthError`, or
    `InterruptedReplyError` when the stream ends early."""

    def fitted(self, messages: list[BaseMessage]) -> Fitted:
        return Fitted(messages, 0, 0)

    def _get_request_payload(self, input_: LanguageModelInput, *, stop: list[str] | None = None, **kwargs: Any) -> dict[str, Any]:
        payload: dict[str, Any] = super()._get_request_payload(input_, stop=stop, **kwargs)
        if isinstance(self._convert_input(input_).to_messages()[-1], AIMessage):
            payload["extra_body"] = {**(payload.get("extra_body") or {}), **GOING_ON}
        return payload

    def explained(self, error: Exception) -> KosentError | None:
        url = self.openai_api_base
        if isinstance(error, (openai.APITimeoutError, httpx.TimeoutException)) and not isinstance(
            error.__cause__ or error, httpx.ConnectTimeout
        ):
            return ServerTimeoutError(f"The server at {url} said nothing for too long.", hint="a longer `timeout` in config.toml")
        if isinstance(error, (openai.APIConnectionError, httpx.HTTPError)):
            reason = error.__cause__ or error
            return ServerDownError(f"The connection to {url} broke: {reason}", hint=f"curl {url}/models     (is it running?)")
        if isinstance(error, openai.APIError):
            return _refusal(error, str(url), self.model_name)
        if isinstance(error, (ValueError, UnicodeDecodeError)):
            return BackendError(f"{url} sent something that is not OpenAI's protocol: {error}", hint=f"curl {url}/models")
        return None


def _refusal(error: openai.APIError, url: str, name: str) -> KosentError:
    said = error.message
    status = error.status_code if isinstance(error, openai.APIStatusError) else None
    if _TOO_LONG.search(said) or error.code == "context_length_exceeded":
        return _too_long(said, url)
    if isinstance(error, openai.NotFoundError):
        return ModelError(f"{url} has no model {name!r}: {said}", hint=f"curl {url}/models     (lists what it has)")
    if isinstance(error, (openai.AuthenticationError, openai.PermissionDeniedError)):
        return ModelError(f"{url} wants another key: {said}", hint="export KOSENT_API_KEY=...")
    if "memory" in said:
        return OutOfMemoryError(f"{url} could not answer with {name!r}: {said}", hint="a smaller model or context on that server")
    if status is not None and (status == 429 or status >= 502):
        return ServerDownError(f"{url} is busy: {said}", hint="wait, or see the server's log")
    return BackendError(f"{url} could not answer with {name!r}: {said}", hint="see the server's log")


def _too_long(said: str, url: str) -> ContextLengthError:
    """By how much, where the server says it in a form that is known."""
    found = [(int(match["tokens"]), int(match["room"])) for form in _FORMS if (match := form.search(said.replace(",", "")))]
    tokens, room = found[0] if found else (0, 0)
    by = f" ({tokens - room:,} tokens too many)" if tokens > room else ""
    return ContextLengthError(
        f"The message is too long for the model at {url}{by}: {said}", tokens=tokens, room=room, hint="shorten the message"
    )


def openai_chat(name: str, url: str, key: str, waits: httpx.Timeout, **settings: Any) -> OpenAIChat:
    """The model `name` of the server at `url`. No proxy, key or account of the environment is sent there."""
    client: dict[str, Any] = {
        "trust_env": False,
        "timeout": waits,
        "limits": httpx.Limits(max_keepalive_connections=0),  # one kept belongs to one event loop
    }
    return OpenAIChat(
        model=name,
        base_url=url,
        api_key=SecretStr(key or "none"),
        max_retries=0,
        stream_usage=True,
        openai_proxy=None,
        http_client=httpx.Client(**client, event_hooks={"request": [_without_account]}),
        http_async_client=httpx.AsyncClient(**client, event_hooks={"request": [_awithout_account]}),
        **settings,
    )


def _without_account(request: httpx.Request) -> None:
    """Takes out what names an account at OpenAI, which their client reads from the environment."""
    for name in ("OpenAI-Organization", "OpenAI-Project"):
        request.headers.pop(name, None)


async def _awithout_account(request: httpx.Request) -> None:
    _without_account(request)
