"""One turn of the chain: what it is given, checked and assessed, and the pieces of the `Reply` that becomes of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, NotRequired, cast

from langchain_core.documents import Document
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage
from typing_extensions import TypedDict  # the one that pydantic takes before Python 3.12

from kosent.errors import InterruptedReplyError, UsageError
from kosent.neutral import neutral, neutral_messages
from kosent.quotation import quoted
from kosent.reply import Citation, Reply, ReplySafety
from kosent.reply_guard import ReplyGuard
from kosent.safety import CARD, assess_conversation


class ChatInput(TypedDict):
    """What a chain is given."""

    message: str
    history: NotRequired[list[BaseMessage]]
    """Earlier turns, the oldest first."""
    reply_begun: NotRequired[str]
    """The beginning of the reply, which the model goes on with; what comes is the rest alone."""


def only_input(inputs: list[Any]) -> ChatInput:
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
    if not isinstance(values.get("reply_begun", ""), str):
        raise UsageError(f"`reply_begun` is a text, not {values['reply_begun']!r:.80}.", hint="leave it out for a new reply")
    return cast("ChatInput", values)


@dataclass
class Turn:
    """One reply under way: `opening` precedes it, `given` says what the model is asked; then come `took` of each of its chunks
    and `rest`, all pieces of one `Reply`."""

    history: list[BaseMessage]
    message: str
    opening: Reply
    guard: ReplyGuard | None
    reply_begun: str = ""
    """What was shown of the reply before this turn, without the card."""
    passages: list[Document] = field(default_factory=list)
    """What the retriever found and there is room for, the best first."""
    said: Reply = field(default_factory=Reply)
    spoke: bool = False
    """Whether a model has written a letter."""
    spaced: bool = False
    """Whether what was shown so far ends with a space of `reply_begun`, which the model does not see."""

    @classmethod
    def begun(cls, values: ChatInput, safety: bool, lang: str) -> Turn:
        """Assesses the conversation. The card belongs to the beginning of a reply and does not come again when it goes on."""
        history = [_without_card(message) for message in values.get("history") or ()]
        going_on = bool(values.get("reply_begun", "").strip())
        begun = _without_card(AIMessage(values["reply_begun"])).text if going_on else ""
        known: dict[str, Any] = {"reply_begun": begun, "spaced": begun.endswith(" ")}
        if not safety:
            return cls(history, values["message"], Reply(lang=lang), None, **known)
        assessment = assess_conversation([one.text for one in history if isinstance(one, HumanMessage)], values["message"])
        card = assessment.level == "crisis" and not going_on
        opening = Reply(f"{CARD[lang]}\n\n" if card else "", safety=ReplySafety.of(assessment, card), lang=lang)
        guard = ReplyGuard(lang, assessment.level)
        guard.go_on_after(begun)
        return cls(history, values["message"], opening, guard, **known)

    def leave_one_out(self) -> bool:
        """Takes the last passage out of what the model is asked; False where there is none, or the model has begun."""
        if not self.passages or self.said.citations:
            return False
        self.passages.pop()
        return True

    def given(self) -> dict[str, Any]:
        """What the prompt is filled with, without turn markers.

        Spaces at the end of a reply's beginning stay out: models write a space as part of the word after it, and after a lone one
        they go astray.
        """
        asked = f"{quoted(self.passages)}\n\n{self.message}" if self.passages else self.message
        begun = self.reply_begun.rstrip(" ")
        return {
            "history": neutral_messages(self.history),
            "message": neutral(asked),
            "reply_begun": neutral_messages([AIMessage(begun)] if begun.strip() else []),
        }

    def took(self, chunk: AIMessageChunk, model: str) -> Reply:
        facts = chunk.response_metadata
        self.spoke = self.spoke or bool(chunk.text)
        text = self._joining(chunk.text)
        return self._piece(
            self.guard.feed(text) if self.guard else text,
            finish_reason=facts.get("finish_reason") or facts.get("done_reason"),
            usage=chunk.usage_metadata,
            dropped_turns=facts.get("dropped_turns", 0),
            model=None if self.said.model == model else model,
            citations=() if self.said.citations else self._citations(),
        )

    def rest(self, reason: str | None = None) -> Reply:
        """What was held back, and what is known at the end."""
        text, safety = "", self.opening.safety
        if self.guard and safety:
            text = self.guard.rest()
            safety = replace(safety, replaced=self.guard.replaced)
        return self._piece(text, safety=safety, finish_reason=reason)

    def _citations(self) -> tuple[Citation, ...]:
        return tuple(
            Citation(number, document.page_content, str(document.metadata.get("source", "")), document.metadata)
            for number, document in enumerate(self.passages, 1)
        )

    def _joining(self, text: str) -> str:
        if self.spaced:
            text = text.lstrip(" ")
            self.spaced = not text
        return text

    def _piece(self, text: str, **known: Any) -> Reply:
        piece = Reply(text, lang=self.opening.lang, **known)
        self.said += piece
        return piece

    def kept_in(self, error: InterruptedReplyError) -> InterruptedReplyError:
        error.reply = self.opening + self.said
        return error


def _without_card(message: BaseMessage) -> BaseMessage:
    spoken = isinstance(message, AIMessage)
    card = next((card for card in CARD.values() if spoken and message.text.startswith(card)), "")
    return message.model_copy(update={"content": message.text.removeprefix(card).lstrip()}) if card else message
