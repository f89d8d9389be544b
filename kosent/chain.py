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
from langchain_core.runnables import Runnable, RunnableGenerator, RunnableLambda, RunnablePassthrough

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
    lang: str = "ko",
) -> Runnable[dict[str, Any], str]:
    """A chain from `{"message": str, "history": list[BaseMessage] (optional)}` to the reply as `str`.

    Where a message speaks of suicide, self-harm, abuse or danger, the reply is preceded by a card with the numbers of people who
    answer at any hour (`kosent.safety`), in `lang` "ko" or "en"; `safety=False` leaves it out, for measuring a model.

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
    return _with_card(chain, CARD[lang]) if safety else chain


def _with_card(chain: Runnable[dict[str, Any], str], card: str) -> Runnable[dict[str, Any], str]:
    """`chain`, with `card` before a reply at a crisis. The model does not see earlier replies' cards: it would imitate them."""
    opening = f"{card}\n\n"

    def opened(pieces: Iterator[str]) -> Iterator[str]:
        yield opening
        yield from pieces

    async def opened_async(pieces: AsyncIterator[str]) -> AsyncIterator[str]:
        yield opening
        async for piece in pieces:
            yield piece

    with_opening = chain | RunnableGenerator(opened, opened_async)

    def history_without_cards(values: dict[str, Any]) -> dict[str, Any]:
        return values | {"history": [_without(message, opening) for message in values.get("history") or []]}

    def fitting(values: dict[str, Any]) -> Runnable[dict[str, Any], str]:
        earlier = [message.text for message in values["history"] if message.type == "human"]
        return with_opening if assess_conversation(earlier, str(values["message"])).level == "crisis" else chain

    return RunnableLambda(history_without_cards) | RunnableLambda(fitting)


def _without(message: BaseMessage, opening: str) -> BaseMessage:
    if message.type != "ai" or not message.text.startswith(opening):
        return message
    return message.model_copy(update={"content": message.text.removeprefix(opening)})


def _with_passages(retriever: BaseRetriever) -> Runnable[dict[str, Any], str]:
    def joined(values: dict[str, Any]) -> str:
        found = quoted(values["documents"])
        return f"{found}\n\n{values['message']}" if found else str(values["message"])

    def message(values: dict[str, Any]) -> str:
        return str(values["message"])

    return RunnablePassthrough.assign(documents=RunnableLambda(message) | retriever) | RunnableLambda(joined)
