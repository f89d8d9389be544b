"""`Reply`: what the chain gives with `output="reply"`, whole or in pieces that add up to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from langchain_core.messages.ai import UsageMetadata

from kosent.safety import NOTICE, Assessment, Level


@dataclass(frozen=True)
class Citation:
    """A passage that the model was given: `number` as in [참고 1], and where it is from as the retriever said."""

    number: int
    text: str
    source: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ReplySafety:
    """`level` and `score` of what the person wrote (`kosent.safety`); `card` whether the numbers to call precede the reply;
    `replaced` how many sentences of the model were withheld because they encourage harm."""

    level: Level = "none"
    score: float = 0.0
    card: bool = False
    replaced: int = 0

    @classmethod
    def of(cls, assessment: Assessment, card: bool) -> ReplySafety:
        return cls(assessment.level, assessment.score, card)


@dataclass(frozen=True)
class Reply:
    """A stream yields pieces of it: `sum` by `+`, as LangChain does it, is what `invoke` gives. What is not known yet is None."""

    text: str = ""
    citations: tuple[Citation, ...] = ()
    safety: ReplySafety | None = None
    finish_reason: str | None = None
    """"stop", "length" (cut at `max_tokens`) or "interrupted" (only in an `InterruptedReplyError`)."""
    usage: UsageMetadata | None = None
    """Tokens of prompt and reply, as far as the server counts them."""
    dropped_turns: int = 0
    """Turns of the history, the oldest, that were left out because the context was full."""
    model: str | None = None
    """What answered."""
    lang: str = "ko"

    @property
    def notice(self) -> str:
        """That an AI writes and does not replace help: for the app to show."""
        return NOTICE[self.lang]

    def __add__(self, other: Reply) -> Reply:
        return Reply(
            self.text + other.text,
            self.citations or other.citations,
            other.safety or self.safety,
            other.finish_reason or self.finish_reason,
            other.usage or self.usage,
            self.dropped_turns + other.dropped_turns,
            other.model or self.model,
            self.lang,
        )

    def __str__(self) -> str:
        return self.text
