"""A LangChain chat model that runs a GGUF file in this process through llama.cpp.

The prompt is the file's own chat template, rendered by `kosent.prompts` and tokenized with exactly one beginning-of-sequence
token; a final assistant message is left open, and the reply goes on with it. Replies are computed one after another, in the
order in which they were asked for, by a thread that belongs to the model (`kosent.llama_cpp_writer`): callers in any thread or
event loop wait, may give up while they wait, and a reply that is given up stops in the middle of its token.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Literal

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import LangSmithParams, LanguageModelInput
from langchain_core.messages import AIMessageChunk, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGenerationChunk
from langchain_core.runnables import Runnable
from pydantic import PrivateAttr

from kosent.context import Fitted, fit
from kosent.errors import UsageError
from kosent.gguf_prompt import gguf_prompt
from kosent.llama_cpp_writer import Order, Piece, Writer
from kosent.streamed_chat import StreamedChat


class LlamaCppChat(StreamedChat):
    """`LlamaCppChat(path="model.gguf")`; every other field has a default. `temperature`, `top_p`, `seed`, `max_tokens`,
    `logprobs` and `top_logprobs` may also be given to a call or bound."""

    path: str
    context: int = 2048
    """Context window in tokens."""
    max_tokens: int = 256
    """Longest reply in tokens."""
    temperature: float = 0.7
    """0 is greedy."""
    top_p: float = 0.9
    seed: int = 0
    stop: list[str] | None = None
    """Texts that end a reply and are not part of it; the model's own end-of-turn token always does."""
    logprobs: bool = False
    """Whether `response_metadata["logprobs"]` holds the log probability of each token, in the form of OpenAI's."""
    top_logprobs: int = 0
    """How many of the likeliest tokens are given beside each."""
    threads: int | None = None
    """Threads for generation; None leaves it to llama.cpp."""

    _writer: Writer | None = PrivateAttr(default=None)
    _making: threading.Lock = PrivateAttr(default_factory=threading.Lock)

    @property
    def _llm_type(self) -> str:
        return "kosent-llama-cpp"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"path": self.path, "temperature": self.temperature, "top_p": self.top_p, "seed": self.seed}

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = super()._get_ls_params(stop=stop, **kwargs)
        return LangSmithParams(**(params | {"ls_provider": "llama.cpp", "ls_model_name": Path(self.path).name}))

    @property
    def writer(self) -> Writer:
        """The thread that writes for this model, and for copies of it with the same file and context."""
        wanted = (self.path, self.context, self.threads)
        with self._making:
            if self._writer is None or self._writer.made_for != wanted:
                self._writer = Writer(*wanted)
            return self._writer

    def load(self) -> Any:
        """The `llama_cpp.Llama` behind this model, loaded on the first call. Raises `ModelError`, `OutOfMemoryError`."""
        return self.writer.llama()

    def prompt_tokens(self, messages: Sequence[BaseMessage]) -> list[int]:
        """Token ids of the prompt for the next reply. Raises `ModelError` where the file has no chat template KoSent knows."""
        return gguf_prompt(self.load(), messages)

    def get_num_tokens(self, text: str) -> int:
        return len(self.load().tokenize(text.encode(), add_bos=False, special=False))

    def _begun(
        self, messages: list[BaseMessage], stop: list[str] | None, emit: Callable[[Piece | None], Any], kwargs: dict[str, Any]
    ) -> Order:
        """The order for a reply; `emit` is called in the writer's thread with each piece, and with None at the end."""
        known = {name: value for name in [*kwargs] if name in OPTIONS and (value := kwargs.pop(name)) is not None}
        kwargs.pop("ls_structured_output_format", None)
        if kwargs:
            raise UsageError(
                f"LlamaCppChat does not know {', '.join(sorted(kwargs))}; it knows {', '.join(OPTIONS)} and stop.",
                hint="leave it out, or use a server: openai:NAME@URL",
            )
        options: dict[str, Any] = {name: known.get(name, getattr(self, name, None)) for name in OPTIONS}

        def prompt() -> Fitted:
            return fit(messages, lambda kept: len(self.prompt_tokens(kept)), self.context, options["max_tokens"])

        stops = [text for text in [*(self.stop or []), *(stop or [])] if text]
        return self.writer.begin(prompt, self.prompt_tokens, stops, options, emit)

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        pieces: SimpleQueue[Piece | None] = SimpleQueue()
        order = self._begun(messages, stop, pieces.put, kwargs)
        try:
            while (piece := pieces.get()) is not None:
                chunk = self._chunk(piece)
                if run_manager:
                    run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk
            yield self._last(order)
        finally:
            order.give_up()

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[Piece | None] = asyncio.Queue()
        order = self._begun(messages, stop, lambda piece: loop.call_soon_threadsafe(pieces.put_nowait, piece), kwargs)
        try:
            while (piece := await pieces.get()) is not None:
                chunk = self._chunk(piece)
                if run_manager:
                    await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk
            yield self._last(order)
        finally:
            order.give_up()

    def _chunk(self, piece: Piece) -> ChatGenerationChunk:
        info = {"logprobs": {"content": piece.logprobs}} if piece.logprobs else None
        return ChatGenerationChunk(message=AIMessageChunk(content=piece.text), generation_info=info)

    def _last(self, order: Order) -> ChatGenerationChunk:
        ended = order.ended()
        usage = UsageMetadata(
            input_tokens=ended.prompt_tokens, output_tokens=ended.tokens, total_tokens=ended.prompt_tokens + ended.tokens
        )
        facts = {"finish_reason": ended.reason, "dropped_turns": ended.dropped_turns, "model_name": Path(self.path).name}
        last = AIMessageChunk(content="", usage_metadata=usage, response_metadata=facts, chunk_position="last")
        return ChatGenerationChunk(message=last, generation_info={"finish_reason": ended.reason})

    def with_structured_output(
        self,
        schema: dict[str, Any] | type | None = None,
        *,
        include_raw: bool = False,
        method: Literal["json_schema", "json_mode", "function_calling"] = "json_schema",
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, Any]:
        """Replies that are JSON of `schema` (a Pydantic class, a TypedDict or a JSON schema), since llama.cpp can then write
        nothing else; `method` and `strict` make no difference. The model is not told the schema: the prompt must say what you
        want."""
        from kosent.structured_output import structured

        if schema is None or kwargs:
            raise UsageError(f"LlamaCppChat.with_structured_output needs a schema, and nothing like {kwargs}.")
        return structured(self, schema, include_raw, method)


OPTIONS = ("temperature", "top_p", "seed", "max_tokens", "logprobs", "top_logprobs", "json_schema")
