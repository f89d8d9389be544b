"""A LangChain chat model that runs a GGUF file in this process through llama.cpp.

The prompt is the file's own chat template, rendered by `kosent.prompts` and tokenized with exactly one beginning-of-sequence
token. The cache of the common prefix is kept between turns (llama-cpp-python does that), a character is never cut in two, and
closing a stream stops the generation before the next token. One generation at a time: a second one waits.
"""

from __future__ import annotations

import asyncio
import codecs
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.language_models.chat_models import generate_from_stream
from langchain_core.messages import AIMessageChunk, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from pydantic import PrivateAttr

from kosent.errors import BackendError, ModelError, UsageError
from kosent.llama_cpp_log import silence
from kosent.prompts import Layout, layout_of_template, render

ROLES = {"system": "system", "human": "user", "ai": "assistant", "AIMessageChunk": "assistant"}


def as_plain(messages: Sequence[BaseMessage]) -> list[dict[str, str]]:
    """LangChain messages as `{"role", "content"}`. Raises `UsageError` for a kind that is not part of a conversation."""
    plain = []
    for message in messages:
        if message.type not in ROLES:
            raise UsageError(f"A message of the kind {message.type!r} cannot be part of a conversation.")
        plain.append({"role": ROLES[message.type], "content": message.text})
    return plain


class LlamaCppChat(BaseChatModel):
    """`LlamaCppChat(path="model.gguf")`; every other field has a default."""

    path: str
    context: int = 2048
    """Context window in tokens."""
    max_tokens: int = 256
    """Longest reply in tokens."""
    temperature: float = 0.7
    """0 is greedy."""
    top_p: float = 0.9
    seed: int = 0
    threads: int | None = None
    """Threads for generation; None leaves it to llama.cpp."""

    _llama: Any = PrivateAttr(default=None)
    _loading: threading.Lock = PrivateAttr(default_factory=threading.Lock)
    _lock: threading.Lock = PrivateAttr(default_factory=threading.Lock)
    _writer: int | None = PrivateAttr(default=None)
    """The thread that holds `_lock`."""

    @property
    def _llm_type(self) -> str:
        return "kosent-llama-cpp"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"path": self.path, "temperature": self.temperature, "top_p": self.top_p, "seed": self.seed}

    def load(self) -> Any:
        """The `llama_cpp.Llama` behind this model, loaded on the first call. Raises `ModelError`."""
        with self._loading:
            if self._llama is None:
                self._llama = self._loaded()
        return self._llama

    def _loaded(self) -> Any:
        from llama_cpp import Llama, _internals, llama

        silence()
        # llama-cpp-python would point the whole process' output to /dev/null while it loads, and a running interface with it
        for module in (_internals, llama):
            setattr(module, "suppress_stdout_stderr", lambda disable=True: nullcontext())  # noqa: B010  (typed as a class)
        try:
            return Llama(
                self.path, n_ctx=self.context, n_threads=self.threads, n_threads_batch=self.threads,
                swa_full=True, seed=self.seed, verbose=False,
            )  # fmt: skip
        except (ValueError, OSError) as error:
            raise ModelError(f"llama.cpp cannot load {self.path}: {error}") from error

    def _template(self) -> tuple[str, Layout]:
        template = self.load().metadata.get("tokenizer.chat_template")
        if not template:
            raise ModelError(f"{self.path} carries no chat template.", hint="kosent export RUN     (writes one into the file)")
        return template, layout_of_template(template)

    def prompt_tokens(self, messages: Sequence[BaseMessage]) -> list[int]:
        """Token ids of the prompt for the next reply."""
        from llama_cpp import llama_vocab_bos, llama_vocab_get_text

        template, layout = self._template()
        llama = self.load()
        bos_id = llama_vocab_bos(llama._model.vocab)
        bos = llama_vocab_get_text(llama._model.vocab, bos_id).decode() if bos_id >= 0 else ""
        text = render(as_plain(messages), template, layout, bos_token=bos, add_generation_prompt=True)
        return [int(token) for token in llama.tokenize(text.encode(), add_bos=False, special=True)]

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return generate_from_stream(self._stream(messages, stop, run_manager, **kwargs))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        if stop:
            raise UsageError("LlamaCppChat ends a reply at the model's own end-of-turn token; `stop` is not supported.")
        with self._alone():
            prompt, dropped = self._fitting(messages)
            room = self.context - len(prompt)
            if room < 1:
                raise UsageError(
                    f"The conversation has {len(prompt)} tokens and the context holds {self.context}.",
                    hint="start a new conversation, or raise `context` in config.toml",
                )
            limit = min(self.max_tokens, room)
            decoder = codecs.getincrementaldecoder("utf-8")("replace")
            count, reason = 0, "length"
            for token in self._tokens(prompt):
                if self._ends(token):
                    reason = "stop"
                    break
                count += 1
                text = decoder.decode(self._llama._model.detokenize([token], special=False))
                if text:
                    chunk = ChatGenerationChunk(message=AIMessageChunk(content=text))
                    if run_manager:
                        run_manager.on_llm_new_token(text, chunk=chunk)
                    yield chunk
                if count >= limit:
                    break
            usage = UsageMetadata(input_tokens=len(prompt), output_tokens=count, total_tokens=len(prompt) + count)
            facts = {"finish_reason": reason, "dropped_turns": dropped}
            last = AIMessageChunk(content="", usage_metadata=usage, response_metadata=facts, chunk_position="last")
            yield ChatGenerationChunk(message=last, generation_info={"finish_reason": reason})

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Waits until no other reply is being written; one model has one cache."""
        if self._writer == threading.get_ident():
            raise BackendError("Another reply of this model is still being read in this thread.", hint="finish or close it first")
        with self._lock:
            self._writer = threading.get_ident()
            try:
                yield
            finally:
                self._writer = None

    def _fitting(self, messages: Sequence[BaseMessage]) -> tuple[list[int], int]:
        """Token ids of the prompt without the oldest turns that leave no room for a reply, and how many turns those were."""
        kept, dropped = list(messages), 0
        first = 1 if kept and kept[0].type == "system" else 0
        prompt = self.prompt_tokens(kept)
        while len(prompt) + min(self.max_tokens, self.context // 4) > self.context and len(kept) - first >= 3:
            del kept[first : first + 2]
            dropped += 1
            prompt = self.prompt_tokens(kept)
        return prompt, dropped

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        """Each token is computed in a thread; cancelling waits for the one under way, then stops and frees the model."""
        chunks = self._stream(messages, stop, None, **kwargs)
        loop = asyncio.get_running_loop()
        thread = ThreadPoolExecutor(1, thread_name_prefix="kosent-reply")  # its own: waiting replies must not take its place
        under_way = loop.run_in_executor(thread, next, chunks, None)
        try:
            while (chunk := await asyncio.shield(under_way)) is not None:
                if run_manager:
                    await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk
                under_way = loop.run_in_executor(thread, next, chunks, None)
        finally:
            await asyncio.wait([under_way])
            await loop.run_in_executor(thread, chunks.close)  # type: ignore[attr-defined]  # a generator
            thread.shutdown(wait=False)

    def _tokens(self, prompt: list[int]) -> Iterator[int]:
        try:
            yield from self._llama.generate(
                prompt, temp=self.temperature, top_p=self.top_p, top_k=0, min_p=0.0, repeat_penalty=1.0
            )
        except (RuntimeError, ValueError) as error:
            raise BackendError(f"llama.cpp stopped while writing with {Path(self.path).name}: {error}") from error

    def _ends(self, token: int) -> bool:
        from llama_cpp import llama_vocab_is_eog

        return bool(llama_vocab_is_eog(self._llama._model.vocab, token))
