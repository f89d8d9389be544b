"""`build_chain`: prompt | llm | parser, a plain LangChain Runnable to embed anywhere.

    chain = build_chain(model="ollama:kosent")
    chain.invoke({"message": "오늘 너무 힘들었어"})                               # -> str
    chain.invoke({"message": "그러게", "history": [HumanMessage(...), AIMessage(...)]})
    chain.invoke({"message": "오늘 너무 힘들었어", "reply_begun": "많이 지치셨"})  # -> the rest of a reply that was stopped
    build_chain(retriever="일기")                                               # with passages of a collection (kosent rag)
    build_chain(output="reply").invoke({"message": "안녕"})                       # -> kosent.reply.Reply

History is messages in; where they are kept is the caller's. Passages from a `retriever` go into the user's turn as quotations.
Turn markers in what people and passages say become text. Closing or cancelling a stream ends the generation.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast, overload

from langchain_core.messages import AIMessageChunk, SystemMessage
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_core.runnables import Runnable, RunnableConfig, RunnableGenerator

from kosent.errors import ContextLengthError, InterruptedReplyError, KosentError, ModelError, UsageError
from kosent.models import chat_model_for, fallback_names, resolve_model
from kosent.prompts import SYSTEM_MESSAGE
from kosent.reply import Reply
from kosent.retrieval import open_retriever
from kosent.safety import CARD
from kosent.safety_classifier import warm_up
from kosent.settings import Settings, load_settings
from kosent.turn import ChatInput, Turn, only_input

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel
    from langchain_core.retrievers import BaseRetriever


SHORT = 400
"""Letters of a message that is assessed in the event loop, in a few milliseconds."""


def prompt(system: str = SYSTEM_MESSAGE) -> ChatPromptTemplate:
    """The chat prompt: system message, `history` (optional list of messages), `message` as the user's turn, and `reply_begun`
    (optional list of one message, the beginning of the reply)."""
    return ChatPromptTemplate.from_messages(
        [
            SystemMessage(content=system),
            MessagesPlaceholder("history", optional=True),
            ("human", "{message}"),
            MessagesPlaceholder("reply_begun", optional=True),
        ]
    )


@overload
def build_chain(
    model: str | BaseChatModel = "",
    *,
    retriever: BaseRetriever | str | None = None,
    system: str = "",
    settings: Settings | None = None,
    safety: bool = True,
    lang: str = "",
    output: Literal["text"] = "text",
) -> Runnable[ChatInput, str]: ...


@overload
def build_chain(
    model: str | BaseChatModel = "",
    *,
    retriever: BaseRetriever | str | None = None,
    system: str = "",
    settings: Settings | None = None,
    safety: bool = True,
    lang: str = "",
    output: Literal["reply"],
) -> Runnable[ChatInput, Reply]: ...


def build_chain(
    model: str | BaseChatModel = "",
    *,
    retriever: BaseRetriever | str | None = None,
    system: str = "",
    settings: Settings | None = None,
    safety: bool = True,
    lang: str = "",
    output: Literal["text", "reply"] = "text",
) -> Runnable[ChatInput, str] | Runnable[ChatInput, Reply]:
    """A chain from `kosent.turn.ChatInput`, `{"message": str, "history": list[BaseMessage] (optional)}`, to the reply, as `str`
    or as `Reply`.

    Where a message speaks of suicide, self-harm, abuse or danger, the reply is preceded by a card with the numbers of people who
    answer at any hour (`kosent.safety`), in `lang` "ko" or "en" (the settings' own), and what in the model's reply encourages
    harm is replaced (`kosent.reply_guard`); `safety=False` leaves both out, for measuring a model.

    `retriever` is any LangChain retriever or the name of a collection (`kosent rag list`); the setting `collection` is for the
    chat and `kosent ask` alone.

    `model` is a name as in `kosent.models` or a LangChain chat model; `system` defaults to what the model was trained with. A
    model that fails before its first token gives way to those that the setting `fallback` names; for a chat model, only where
    `settings` are given.

    Raises `ModelError`, `UsageError` or `MissingExtraError` when the named model cannot be used, and what
    `kosent.retrieval.open_retriever` raises. A running chain raises what `kosent.errors` lists below `ModelError`,
    `ContextLengthError`, and what the retriever raises; an `InterruptedReplyError` has what came as its `reply`.
    """
    standing_by = settings is not None or isinstance(model, str)
    settings = settings or load_settings()
    lang = lang or settings.lang
    system = system or settings.system
    if output not in ("text", "reply") or lang not in CARD:
        raise UsageError(
            f'output is "text" or "reply", lang "ko" or "en", not {output!r} and {lang!r}.', hint='build_chain(output="reply")'
        )
    if isinstance(retriever, str):
        retriever = open_retriever(retriever) if retriever else None
    if isinstance(model, str):
        reference = resolve_model(model or settings.model, settings.fallback)
        llm, name = chat_model_for(reference, settings), str(reference)
        system = system or reference.system_message
    else:
        llm, name = model, _name_of(model)

    models = _Models(name, llm, fallback_names(settings.fallback) if standing_by else [], settings)
    if safety:
        warm_up()
    chain = _ReplyChain(models, prompt(system or SYSTEM_MESSAGE), retriever, safety, lang)
    replies: Runnable[Any, Reply] = RunnableGenerator(chain.stream, chain.astream, name="kosent")  # type: ignore[arg-type]
    if output == "reply":
        return replies.with_types(input_type=ChatInput, output_type=Reply)
    texts: Runnable[Any, str] = replies | RunnableGenerator(_texts, _atexts, name="text")
    return texts.with_types(input_type=ChatInput, output_type=str)


def _texts(replies: Iterator[Reply]) -> Iterator[str]:
    empty = True
    for reply in replies:
        if reply.text:
            empty = False
            yield reply.text
    if empty:
        yield ""


async def _atexts(replies: AsyncIterator[Reply]) -> AsyncIterator[str]:
    empty = True
    async for reply in replies:
        if reply.text:
            empty = False
            yield reply.text
    if empty:
        yield ""


class _Models:
    """The model and, in turn, those that take over when it cannot answer; each is made once, when it is first needed."""

    def __init__(self, name: str, llm: BaseChatModel, others: Sequence[str], settings: Settings) -> None:
        self.first, self.others, self.settings = (name, llm), others, settings
        self._made: dict[str, tuple[str, BaseChatModel]] = {}
        self._making = threading.Lock()

    def __iter__(self) -> Iterator[tuple[str, BaseChatModel]]:
        yield self.first
        for other in self.others:
            try:
                name, llm = self._other(other)
            except KosentError:  # what the first one failed with is what is said
                continue
            if name != self.first[0]:
                yield name, llm

    def _other(self, wanted: str) -> tuple[str, BaseChatModel]:
        with self._making:
            if wanted not in self._made:
                found = resolve_model(wanted)
                self._made[wanted] = (str(found), chat_model_for(found, self.settings))
            return self._made[wanted]

    async def __aiter__(self) -> AsyncIterator[tuple[str, BaseChatModel]]:
        """The same; looking for the others, which may take seconds, does not hold up the event loop."""
        models = iter(self)
        yield next(models)
        while (found := await asyncio.to_thread(next, models, None)) is not None:
            yield found


@dataclass
class _ReplyChain:
    """The two functions behind the chain's Runnable; all but waiting is in `kosent.turn`."""

    models: _Models
    template: ChatPromptTemplate
    retriever: BaseRetriever | None
    safety: bool
    lang: str

    def stream(self, inputs: Iterator[Any], config: RunnableConfig) -> Iterator[Reply]:
        turn = Turn.begun(values := only_input(list(inputs)), self.safety, self.lang)
        yield turn.opening
        if self.retriever:
            turn.passages = list(self.retriever.invoke(values["message"], config))
        problem: ModelError | None = None
        for name, llm in self.models:
            try:
                for chunk in self._chunks(llm, turn, config):
                    yield turn.took(chunk, name)
                break
            except InterruptedReplyError as error:
                yield turn.rest("interrupted")
                raise turn.kept_in(error) from error.__cause__
            except ModelError as error:
                if turn.spoke:
                    raise
                problem = problem or error
        else:
            assert problem is not None
            raise problem
        yield turn.rest()

    async def astream(self, inputs: AsyncIterator[Any], config: RunnableConfig) -> AsyncIterator[Reply]:
        values = only_input([one async for one in inputs])
        at_once = len(values["message"]) <= SHORT
        turn = (
            Turn.begun(values, self.safety, self.lang)
            if at_once
            else await asyncio.to_thread(Turn.begun, values, self.safety, self.lang)
        )
        yield turn.opening
        if self.retriever:
            turn.passages = list(await self.retriever.ainvoke(values["message"], config))
        problem: ModelError | None = None
        async for name, llm in self.models:
            try:
                async with aclosing(self._achunks(llm, turn, config)) as chunks:
                    async for chunk in chunks:
                        yield turn.took(chunk, name)
                break
            except InterruptedReplyError as error:
                yield turn.rest("interrupted")
                raise turn.kept_in(error) from error.__cause__
            except ModelError as error:
                if turn.spoke:
                    raise
                problem = problem or error
        else:
            assert problem is not None
            raise problem
        yield turn.rest()

    def _chunks(self, llm: BaseChatModel, turn: Turn, config: RunnableConfig) -> Iterator[AIMessageChunk]:
        """Of the reply, with as many of the passages as there is room for."""
        while True:
            messages = self.template.invoke(turn.given(), config).to_messages()
            try:
                yield from llm.stream(messages, config)
                return
            except ContextLengthError:
                if not turn.leave_one_out():
                    raise

    async def _achunks(self, llm: BaseChatModel, turn: Turn, config: RunnableConfig) -> AsyncGenerator[AIMessageChunk]:
        while True:
            messages = (await self.template.ainvoke(turn.given(), config)).to_messages()
            try:
                async with aclosing(cast("AsyncGenerator[AIMessageChunk]", llm.astream(messages, config))) as chunks:
                    async for chunk in chunks:
                        yield chunk
                return
            except ContextLengthError:
                if not turn.leave_one_out():
                    raise


def _name_of(model: BaseChatModel) -> str:
    return str(
        getattr(model, "model", None) or getattr(model, "model_name", None) or getattr(model, "path", None) or model._llm_type
    )
