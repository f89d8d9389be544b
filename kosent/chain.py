"""`build_chain`: prompt | llm | parser, a plain LangChain Runnable to embed anywhere.

    chain = build_chain(model="ollama:kosent")
    chain.invoke({"message": "오늘 너무 힘들었어"})                               # -> str
    chain.invoke({"message": "그러게", "history": [HumanMessage(...), AIMessage(...)]})

History is messages in; where they are kept is the caller's. Passages from a `retriever` go into the user's turn as quotations.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from langchain_core.documents import Document
from langchain_core.messages import BaseMessage, SystemMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda, RunnablePassthrough

from kosent.models import chat_model_for, resolve_model
from kosent.prompts import SYSTEM_MESSAGE
from kosent.safety import CARD, assess_conversation
from kosent.settings import Settings, load_settings

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel
    from langchain_core.retrievers import BaseRetriever


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


def build_chain(
    model: str | BaseChatModel = "",
    *,
    retriever: BaseRetriever | None = None,
    system: str = "",
    settings: Settings | None = None,
    safety: bool = True,
    lang: str = "",
) -> Runnable[dict[str, Any], str]:
    """A chain from `{"message": str, "history": list[BaseMessage] (optional)}` to the reply as `str`.

    Where a message speaks of suicide, self-harm, abuse or danger, the reply is preceded by a card with the numbers of people who
    answer at any hour (`kosent.safety`), in `lang` "ko" or "en" (the settings' own);
    `safety=False` leaves it out, for measuring a model.

    `model` is a name as in `kosent.models` or a LangChain chat model; `system` defaults to what the model was trained with.
    Raises `ModelError`, `UsageError` or `MissingExtraError` when the named model cannot be used.
    """
    settings = settings or load_settings()
    system = system or settings.system
    if isinstance(model, str):
        reference = resolve_model(model or settings.model)
        system = system or reference.system_message
        llm = chat_model_for(reference, settings)
    else:
        llm = model
    chain: Runnable[dict[str, Any], str] = prompt(system or SYSTEM_MESSAGE) | llm | StrOutputParser()
    if retriever is not None:
        chain = RunnablePassthrough.assign(message=_with_passages(retriever)) | chain
    return WithCard(chain, CARD[lang or settings.lang]) if safety else chain


class WithCard(Runnable[dict[str, Any], str]):
    """`chain`, with `card` before a reply at a crisis: in a stream before the model has said anything, or has failed to.

    The model does not see the cards of earlier replies: it would imitate them.
    """

    def __init__(self, chain: Runnable[dict[str, Any], str], card: str) -> None:
        self.chain = chain
        self.opening = f"{card}\n\n"

    def get_input_schema(self, config: RunnableConfig | None = None) -> Any:
        return self.chain.get_input_schema(config)

    def get_output_schema(self, config: RunnableConfig | None = None) -> Any:
        return self.chain.get_output_schema(config)

    def _prepared(self, values: dict[str, Any]) -> tuple[dict[str, Any], str]:
        """What the model is asked, and what precedes its reply."""
        history = [_without_card(message) for message in values.get("history") or []]
        earlier = [message.text for message in history if message.type == "human"]
        level = assess_conversation(earlier, str(values["message"])).level
        return values | {"history": history}, self.opening if level == "crisis" else ""

    def invoke(self, input: dict[str, Any], config: RunnableConfig | None = None, **kwargs: Any) -> str:
        values, opening = self._prepared(input)
        return opening + self.chain.invoke(values, config, **kwargs)

    async def ainvoke(self, input: dict[str, Any], config: RunnableConfig | None = None, **kwargs: Any) -> str:
        values, opening = self._prepared(input)
        return opening + await self.chain.ainvoke(values, config, **kwargs)

    def stream(self, input: dict[str, Any], config: RunnableConfig | None = None, **kwargs: Any) -> Iterator[str]:
        values, opening = self._prepared(input)
        if opening:
            yield opening
        yield from self.chain.stream(values, config, **kwargs)

    async def astream(self, input: dict[str, Any], config: RunnableConfig | None = None, **kwargs: Any) -> AsyncIterator[str]:
        values, opening = self._prepared(input)
        if opening:
            yield opening
        async for piece in self.chain.astream(values, config, **kwargs):
            yield piece


def _without_card(message: BaseMessage) -> BaseMessage:
    card = next((card for card in CARD.values() if message.type == "ai" and message.text.startswith(card)), "")
    return message.model_copy(update={"content": message.text.removeprefix(card).lstrip()}) if card else message


def _with_passages(retriever: BaseRetriever) -> Runnable[dict[str, Any], str]:
    def joined(values: dict[str, Any]) -> str:
        found = quoted(values["documents"])
        return f"{found}\n\n{values['message']}" if found else str(values["message"])

    def message(values: dict[str, Any]) -> str:
        return str(values["message"])

    return RunnablePassthrough.assign(documents=RunnableLambda(message) | retriever) | RunnableLambda(joined)
