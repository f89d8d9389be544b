"""`build_chain`: prompt | llm | parser, a plain LangChain Runnable to embed anywhere.

    chain = build_chain(model="ollama:kosent")
    chain.invoke({"message": "오늘 너무 힘들었어"})                               # -> str
    chain.invoke({"message": "그러게", "history": [HumanMessage(...), AIMessage(...)]})
    build_chain(output="reply").invoke({"message": "안녕"})                       # -> kosent.reply.Reply

History is messages in; where they are kept is the caller's. Passages from a `retriever` go into the user's turn as quotations.
Turn markers in what people and passages say become text. Closing or cancelling a stream ends the generation.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, NotRequired, cast, overload

from langchain_core.documents import Document
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, SystemMessage
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_core.runnables import Runnable, RunnableConfig, RunnableGenerator
from typing_extensions import TypedDict  # the one that pydantic takes before Python 3.12

from kosent.errors import InterruptedReplyError, KosentError, ModelError, UsageError
from kosent.models import chat_model_for, fallback_names, resolve_model
from kosent.neutral import neutral, neutral_messages
from kosent.prompts import SYSTEM_MESSAGE
from kosent.reply import Citation, Reply, ReplySafety
from kosent.reply_guard import ReplyGuard
from kosent.safety import CARD, assess_conversation
from kosent.safety_classifier import warm_up
from kosent.settings import Settings, load_settings

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel
    from langchain_core.retrievers import BaseRetriever


SHORT = 400
"""Letters of a message that is assessed in the event loop, in a few milliseconds."""


class ChatInput(TypedDict):
    """What a chain is given."""

    message: str
    history: NotRequired[list[BaseMessage]]
    """Earlier turns, the oldest first."""


def prompt(system: str = SYSTEM_MESSAGE) -> ChatPromptTemplate:
    """The chat prompt: system message, `history` (optional list of messages), then `message` as the user's turn."""
    return ChatPromptTemplate.from_messages(
        [SystemMessage(content=system), MessagesPlaceholder("history", optional=True), ("human", "{message}")]
    )


def quoted(documents: Sequence[Document]) -> str:
    """Passages between borders, as material to be read and not as words of the user."""
    return "\n".join(
        f"[참고 {number}]\n{document.page_content}\n[/참고 {number}]" for number, document in enumerate(documents, 1)
    )


@overload
def build_chain(
    model: str | BaseChatModel = "",
    *,
    retriever: BaseRetriever | None = None,
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
    retriever: BaseRetriever | None = None,
    system: str = "",
    settings: Settings | None = None,
    safety: bool = True,
    lang: str = "",
    output: Literal["reply"],
) -> Runnable[ChatInput, Reply]: ...


def build_chain(
    model: str | BaseChatModel = "",
    *,
    retriever: BaseRetriever | None = None,
    system: str = "",
    settings: Settings | None = None,
    safety: bool = True,
    lang: str = "",
    output: Literal["text", "reply"] = "text",
) -> Runnable[ChatInput, str] | Runnable[ChatInput, Reply]:
    """A chain from `{"message": str, "history": list[BaseMessage] (optional)}` to the reply, as `str` or as `Reply`.

    Where a message speaks of suicide, self-harm, abuse or danger, the reply is preceded by a card with the numbers of people who
    answer at any hour (`kosent.safety`), in `lang` "ko" or "en" (the settings' own), and what in the model's reply encourages
    harm is replaced (`kosent.reply_guard`); `safety=False` leaves both out, for measuring a model.

    `model` is a name as in `kosent.models` or a LangChain chat model; `system` defaults to what the model was trained with. A
    model that fails before its first token gives way to those that the setting `fallback` names.

    Raises `ModelError`, `UsageError` or `MissingExtraError` when the named model cannot be used. A running chain raises what
    `kosent.errors` lists below `ModelError`, and `ContextLengthError`; an `InterruptedReplyError` has what came as its `reply`.
    """
    settings = settings or load_settings()
    lang = lang or settings.lang
    system = system or settings.system
    if output not in ("text", "reply") or lang not in CARD:
        raise UsageError(
            f'output is "text" or "reply", lang "ko" or "en", not {output!r} and {lang!r}.', hint='build_chain(output="reply")'
        )
    if isinstance(model, str):
        reference = resolve_model(model or settings.model, settings.fallback)
        llm, name = chat_model_for(reference, settings), str(reference)
        system = system or reference.system_message
    else:
        llm, name = model, _name_of(model)

    models = _Models(name, llm, fallback_names(settings) if isinstance(model, str) else [], settings)
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
            with suppress(KosentError):
                name, llm = self._other(other)
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
class _Turn:
    """One reply under way: `opening` precedes it, `given` says what the model is asked; then come `took` of each of its chunks
    and `rest`, all pieces of one `Reply`."""

    history: list[BaseMessage]
    message: str
    opening: Reply
    guard: ReplyGuard | None
    said: Reply = field(default_factory=Reply)
    spoke: bool = False
    """Whether a model has written a letter."""

    @classmethod
    def begun(cls, values: ChatInput, safety: bool, lang: str) -> _Turn:
        """Assesses the conversation."""
        history = [_without_card(message) for message in values.get("history") or ()]
        if not safety:
            return cls(history, values["message"], Reply(lang=lang), None)
        assessment = assess_conversation([one.text for one in history if isinstance(one, HumanMessage)], values["message"])
        crisis = assessment.level == "crisis"
        opening = Reply(f"{CARD[lang]}\n\n" if crisis else "", safety=ReplySafety.of(assessment, crisis), lang=lang)
        return cls(history, values["message"], opening, ReplyGuard(lang, assessment.level))

    def cited(self, found: Sequence[Document]) -> Reply:
        return self._piece(
            "",
            citations=tuple(
                Citation(number, document.page_content, str(document.metadata.get("source", "")), document.metadata)
                for number, document in enumerate(found, 1)
            ),
        )

    def given(self, found: Sequence[Document]) -> dict[str, Any]:
        """What the prompt is filled with, without turn markers."""
        asked = f"{quoted(found)}\n\n{self.message}" if found else self.message
        return {"history": neutral_messages(self.history), "message": neutral(asked)}

    def took(self, chunk: AIMessageChunk, model: str) -> Reply:
        facts = chunk.response_metadata
        self.spoke = self.spoke or bool(chunk.text)
        return self._piece(
            self.guard.feed(chunk.text) if self.guard else chunk.text,
            finish_reason=facts.get("finish_reason") or facts.get("done_reason"),
            usage=chunk.usage_metadata,
            dropped_turns=facts.get("dropped_turns", 0),
            model=None if self.said.model == model else model,
        )

    def rest(self, reason: str | None = None) -> Reply:
        """What was held back, and what is known at the end."""
        text, safety = "", self.opening.safety
        if self.guard and safety:
            text = self.guard.rest()
            safety = replace(safety, replaced=self.guard.replaced)
        return self._piece(text, safety=safety, finish_reason=reason)

    def _piece(self, text: str, **known: Any) -> Reply:
        piece = Reply(text, lang=self.opening.lang, **known)
        self.said += piece
        return piece

    def kept_in(self, error: InterruptedReplyError) -> InterruptedReplyError:
        error.reply = self.opening + self.said
        return error


@dataclass
class _ReplyChain:
    """The two functions behind the chain's Runnable; all but waiting is in `_Turn`."""

    models: _Models
    template: ChatPromptTemplate
    retriever: BaseRetriever | None
    safety: bool
    lang: str

    def stream(self, inputs: Iterator[Any], config: RunnableConfig) -> Iterator[Reply]:
        turn = _Turn.begun(values := _only(list(inputs)), self.safety, self.lang)
        yield turn.opening
        found = self.retriever.invoke(values["message"], config) if self.retriever else []
        yield turn.cited(found)
        messages = self.template.invoke(turn.given(found), config).to_messages()
        problem: ModelError | None = None
        for name, llm in self.models:
            try:
                for chunk in llm.stream(messages, config):
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
        values = _only([one async for one in inputs])
        at_once = len(values["message"]) <= SHORT
        turn = (
            _Turn.begun(values, self.safety, self.lang)
            if at_once
            else await asyncio.to_thread(_Turn.begun, values, self.safety, self.lang)
        )
        yield turn.opening
        found = await self.retriever.ainvoke(values["message"], config) if self.retriever else []
        yield turn.cited(found)
        messages = (await self.template.ainvoke(turn.given(found), config)).to_messages()
        problem: ModelError | None = None
        async for name, llm in self.models:
            try:
                async with aclosing(cast("AsyncGenerator[AIMessageChunk]", llm.astream(messages, config))) as chunks:
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


def _only(inputs: list[Any]) -> ChatInput:
    """The one input of a chain. Raises `UsageError` when it is not `ChatInput`."""
    hint = 'chain.invoke({"message": "오늘 너무 힘들었어", "history": [HumanMessage(...), AIMessage(...)]})'
    values = inputs[0] if len(inputs) == 1 else None
    if not isinstance(values, dict) or not isinstance(values.get("message"), str):
        raise UsageError(f'The chain takes {{"message": text, "history": messages}}, not {values!r:.80}.', hint=hint)
    if not values["message"].strip():
        raise UsageError("The message is empty.", hint=hint)
    wrong = [one for one in values.get("history") or () if not isinstance(one, BaseMessage)]
    if wrong:
        raise UsageError(f"The history is a list of LangChain messages, and {wrong[0]!r:.80} is none.", hint=hint)
    return cast("ChatInput", values)


def _name_of(model: BaseChatModel) -> str:
    return str(
        getattr(model, "model", None) or getattr(model, "model_name", None) or getattr(model, "path", None) or model._llm_type
    )


def _without_card(message: BaseMessage) -> BaseMessage:
    spoken = isinstance(message, AIMessage)
    card = next((card for card in CARD.values() if spoken and message.text.startswith(card)), "")
    return message.model_copy(update={"content": message.text.removeprefix(card).lstrip()}) if card else message
